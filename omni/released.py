"""The released R1-Omni and HumanOmni-0.5B as they were trained: their prompts, their frames, their thirty seconds of sound.

    V = <vi_start>video tokens<vi_end>        A = <au_start>audio tokens<au_end>        I = <im_start>image<im_end>

    layout       the user's turn                                              what BERT reads
    inference    V ⏎ A ⏎ question                                             question
    cold_start   V ⏎ A ⏎ ⏎ ⏎ question                                         <vi_start><vi_end><au_start><audio><au_end>question
    rl           <|vision_start|><|video_pad|><|vision_end|>V ⏎ A ⏎ question    question

A sense that the clip does not have has no markers; the markers are plain text to the tokenizer. The chat template and
its system line are the checkpoint's own. Source: the released code, as `docs/evaluation.md` describes it.

Other than in `processing.py`, the picture is squeezed to a square (`fit="squeeze"`, the released inference) or padded with
grey first (`fit="pad"`, its training), and the sound always fills the window of the audio tower: shorter sound is followed
by silence, longer sound is cut (warning `sound_cut`), as the models were trained. The released code hears ten seconds of silence in a clip
without sound; here the sense is then missing.
"""  # noqa: E501

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer

from .clip import Clip
from .emotions import LabelSpace
from .errors import ModelError
from .features import ClipFeatures, collate
from .processing import RATE, OmniProcessor

SAMPLING = "even_indices"
LAYOUTS = ("inference", "cold_start", "rl")
FITS = ("squeeze", "pad")
GREY = 127  # what padding is filled with
QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the most "
    "obvious to you?"
)
LABEL_QUESTION = (
    "As an emotional recognition expert, in the video, when the characters display their emotions, which predominant "
    "feeling is most clearly expressed?\n"
)
INSTRUCTION = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
JOINTS = {"inference": "  ", "cold_start": " ", "rl": "\n"}  # between question and instruction
MARKERS = {
    "video": ("<vi_start>", "<vi_end>"),
    "audio": ("<au_start>", "<au_end>"),
    "image": ("<im_start>", "<im_end>"),
}
FLATTEN = """{%- set ns = namespace(turns=[]) -%}
{%- for m in messages -%}{%- set t = namespace(text='') -%}
{%- if m['content'] is string -%}{%- set t.text = m['content'] -%}{%- else -%}
{%- for part in m['content'] -%}{%- if part['type'] == 'video' -%}{%- set t.text = t.text + '@CLIP@' -%}
{%- elif part['type'] == 'text' -%}{%- set t.text = t.text + part['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- set ns.turns = ns.turns + [{'role': m['role'], 'content': t.text}] -%}{%- endfor -%}
{%- set messages = ns.turns -%}
{%- if messages[-1]['role'] == 'assistant' -%}
{%- set last = messages[-1]['content'] -%}{%- set messages = messages[:-1] -%}{%- set add_generation_prompt = true -%}
{%- endif -%}
"""  # released templates take strings for contents ...
ANSWER = """{%- if last is defined -%}{% generation %}{{ last }}{{ eos_token }}
{% endgeneration %}{%- endif -%}"""  # ... and do not say which tokens the assistant wrote, which training asks for


class ReleasedProcessor(OmniProcessor):
    """`OmniProcessor` with the released prompts.

    Args:
        video_placeholder, audio_placeholder: what stands for a single soft token.
        frame_patches: patches of one frame, S².
        audio_tokens: soft tokens of any sound.
        instruction: BERT's words, `{"words": [...], "lower_case": true}`.
        layout, fit: one of `LAYOUTS` and of `FITS`.
        chat_template: the checkpoint's own.
        others: as `OmniProcessor`; `clip_token` stands for a whole clip while a prompt is written.

    Raises:
        ModelError: an unknown layout or fit, or no words of BERT.
    """

    def __init__(
        self,
        feature_extractor=None,
        tokenizer=None,
        transcript_tokenizer=None,
        chat_template: str | None = None,
        clip_token: str = "<|clip|>",
        video_placeholder: str = "<|clip_video|>",
        audio_placeholder: str = "<|clip_audio|>",
        frame_patches: int = 196,
        audio_tokens: int = 500,
        frames: int = 8,
        vision: dict | None = None,
        instruction: dict | None = None,
        layout: str = "inference",
        fit: str = "squeeze",
    ):
        one_of("layout", layout, LAYOUTS)
        one_of("fit", fit, FITS)
        if instruction is None:
            raise ModelError(
                "This model weighs its picture by BERT's reading of the question, but BERT's word list was not at hand "
                "when it was imported. Import it again with --bert FOLDER (a folder with vocab.txt).",
                code="no_words",
            )
        self.video_placeholder, self.audio_placeholder = video_placeholder, audio_placeholder
        self.frame_patches, self.audio_tokens, self.layout, self.fit = frame_patches, audio_tokens, layout, fit
        self.instruction = instruction
        flatten = FLATTEN.replace("@CLIP@", clip_token)
        template = (chat_template or "").removeprefix(flatten).removesuffix(ANSWER)
        super().__init__(
            feature_extractor,
            tokenizer,
            transcript_tokenizer,
            chat_template=flatten + template + ANSWER,
            clip_token=clip_token,
            frames=frames,
            vision=vision,
            sampling=SAMPLING,
            instructed=True,
        )

    @property
    def hearing(self) -> float:
        """Seconds of sound in the audio tower's window."""
        return float(self.feature_extractor.chunk_length)

    @property
    def question(self) -> str:
        """What is asked where nothing else is."""
        return QUESTION

    def prompt(
        self,
        question: str | None,
        labels: LabelSpace | str | Sequence[str],
        *,
        think: bool = True,
        modalities: Sequence[str] = (),
        transcript: str | None = None,
    ) -> str:
        """The question as these models were asked: no candidates are listed and no words are quoted."""
        asked = " ".join((question or "").split())
        if think:
            return (asked or QUESTION) + JOINTS[self.layout] + INSTRUCTION
        return asked or LABEL_QUESTION

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 (T, H, W, 3) to (T, 3, S, S)."""
        return super().pixels(np.stack([squared(frame) for frame in frames]) if self.fit == "pad" else frames)

    def mel(self, wave: np.ndarray) -> Tensor:
        """Log-mel (M, L) of the audio tower's whole window."""
        found = self.feature_extractor(wave, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        return torch.from_numpy(found).float()

    def media(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """As `OmniProcessor.media`, without prosody."""
        return {name: x for name, x in super().media(clips).items() if not name.startswith("prosody")}

    @cached_property
    def bert(self) -> BertTokenizer:
        """BERT's tokenizer."""
        words = {word: i for i, word in enumerate(self.instruction["words"])}
        return BertTokenizer(vocab=words, do_lower_case=self.instruction["lower_case"], model_max_length=512)

    def instructions(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the router reads of B questions: instruction_ids and instruction_mask, (B, L)."""
        if self.layout == "cold_start":
            video, audio = MARKERS["video"], MARKERS["audio"]
            head = f"{video[0]}{video[1]}{audio[0]}<audio>{audio[1]}"
            texts = [head + text.replace("\n", "") for text in texts]
        found = self.bert(list(texts), padding=True, truncation=True, return_tensors="pt")
        return {"instruction_ids": found["input_ids"], "instruction_mask": found["attention_mask"]}

    def _process_videos(self, videos, **kwargs):
        clips = [clip for row in videos for clip in row]
        if all(isinstance(clip, ClipFeatures) for clip in clips):
            features, times = collate(clips)
            data = {"clip_features": features, "clip_times": times}
        else:
            data = self.media(clips)
        return data, [self.written(clip) for clip in clips]

    def written(self, clip: Clip | ClipFeatures) -> str:
        """A clip as the text that stands before the question, its tokens as placeholders."""
        frames, parts = self.frames_of(clip), []
        tokens = math.ceil(math.isqrt(self.frame_patches) / 2) ** 2  # of a frame
        if "video" in clip.modalities:
            kind = "image" if frames == 1 else "video"
            parts.append(between(kind, self.video_placeholder * (frames * tokens)))
        if "audio" in clip.modalities:
            parts.append(between("audio", self.audio_placeholder * self.audio_tokens))
        head = "<|vision_start|><|video_pad|><|vision_end|>" if self.layout == "rl" else ""
        tail = "\n\n" if self.layout == "cold_start" else ""
        return head + "\n".join([*parts, ""]) + tail

    def frames_of(self, clip: Clip | ClipFeatures) -> int:
        """How many frames a clip has."""
        if isinstance(clip, ClipFeatures):
            return len(clip.times.get("video", ())) // self.frame_patches
        return len(clip.times)


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Refuse what is not one of the known values, with their list."""
    if value not in known:
        raise ModelError(f"Unknown {what} {value!r}. Choose one of: {', '.join(known)}.", code="bad_argument")


def between(kind: str, tokens: str) -> str:
    """Tokens between the markers of their kind.

    >>> between("audio", "…")
    '<au_start>…<au_end>'
    """
    return tokens.join(MARKERS[kind])


def squared(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) in the middle of a grey square.

    >>> squared(np.zeros((2, 4, 3), np.uint8))[:, 0, 0].tolist()
    [127, 0, 0, 127]
    """
    height, width = frame.shape[:2]
    canvas = Image.new("RGB", (max(height, width),) * 2, (GREY,) * 3)
    canvas.paste(Image.fromarray(frame), ((canvas.width - width) // 2, (canvas.height - height) // 2))
    return np.asarray(canvas)
