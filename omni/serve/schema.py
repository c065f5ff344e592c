"""What goes in and out of the API, as OpenAI's, and so the OpenAPI description.

Parameters of OpenAI's that change nothing here are taken; those that would change the answer, and unknown ones, are
refused by name: an option that is silently ignored is a wrong answer. Ours are `labels` and `think` in a request, and
`emotion` and `reasoning_content` in a message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from ..emotions import ALIASES, EKMAN7, LABEL_LENGTH, SPACES, LabelSpace, label_space
from .settings import MB

URL_LENGTH = 48 * MB
TEXT_LENGTH = 100_000  # characters; more than any context of ours
NAMES = sorted({*SPACES, *ALIASES})
Text = Annotated[str, Field(max_length=TEXT_LENGTH)]
Id = Annotated[str, Field(max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=LABEL_LENGTH)]  # which words can be labels, `label_space` says
Words = Annotated[list[Word], Field(min_length=2, max_length=64)]


class Loose(BaseModel):
    """Takes fields that it does not know, as of answers that a client sends back."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Strict(BaseModel):
    """Refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# ---- what goes in ----


class Url(Loose):
    """`data:…;base64,…`, the id of an upload, or where the server allows it `https:` or `file:`."""

    url: Annotated[str, Field(min_length=1, max_length=URL_LENGTH)]


class TextPart(Loose):
    type: Literal["text"]
    text: Text


class VideoPart(Loose):
    """A clip, picture and sound."""

    type: Literal["video_url"]
    video_url: Url


class AudioPart(Loose):
    """A sound, or the sound of a clip."""

    type: Literal["audio_url"]
    audio_url: Url


class ImagePart(Loose):
    """A picture, or the picture of a clip."""

    type: Literal["image_url"]
    image_url: Url


class Sound(Loose):
    data: Annotated[str, Field(min_length=1, max_length=URL_LENGTH, description="base64")]
    format: Annotated[str, Field(max_length=20)] = "wav"


class SoundPart(Loose):
    """A sound in the request itself."""

    type: Literal["input_audio"]
    input_audio: Sound


class FileOf(Loose):
    file_id: Id | None = None
    file_data: Annotated[str | None, Field(max_length=URL_LENGTH, description="a data: URL")] = None


class FilePart(Loose):
    """An upload, picture and sound."""

    type: Literal["file"]
    file: FileOf


Part = Annotated[
    TextPart | VideoPart | AudioPart | ImagePart | SoundPart | FilePart,
    Field(discriminator="type"),
]


def _kind(content: Any) -> str:
    return "parts" if isinstance(content, list) else "text"


Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(max_length=64), Tag("parts")], Discriminator(_kind)
]


class SystemMessage(Loose):
    role: Literal["system", "developer"]
    content: Content


class UserMessage(Loose):
    role: Literal["user"]
    content: Content


class AssistantMessage(Loose):
    role: Literal["assistant"]
    content: Content = ""
    reasoning_content: Text | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Loose):
    include_usage: bool = False


class SchemaOf(Loose):
    name: Annotated[str, Field(max_length=64)] = "record"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class PlainFormat(Loose):
    type: Literal["text", "json_object"]


class SchemaFormat(Loose):
    type: Literal["json_schema"]
    json_schema: SchemaOf


def _known(name: str) -> str:
    if name.strip().lower() not in NAMES:
        raise ValueError(f"Unknown label space. Use one of {', '.join(NAMES)}, or a list of words")
    return name


SpaceName = Annotated[str, Field(max_length=40, json_schema_extra={"enum": NAMES}), AfterValidator(_known)]
Labels = Annotated[
    Annotated[SpaceName, Tag("text")] | Annotated[Words, Tag("parts")],
    Discriminator(_kind),
    Field(description="The labels that may be answered: the name of a space, or words."),
]


StopText = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(max_length=4), Tag("parts")],
    Discriminator(_kind),
]


class ChatRequest(Strict):
    """A question about a clip."""

    model: Id
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    labels: Labels | None = None
    think: Annotated[bool | None, Field(description="Reasons before the answer; true if not given.")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1, le=10**6)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=10**6)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, description="0, the default, is greedy.")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    response_format: Annotated[PlainFormat | SchemaFormat | None, Field(discriminator="type")] = None
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None, Field(description="none is think: false")
    ] = None
    # of OpenAI's, without effect here
    n: Annotated[int | None, Field(ge=1, le=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    user: Annotated[str | None, Field(max_length=200)] = None
    safety_identifier: Annotated[str | None, Field(max_length=200)] = None
    prompt_cache_key: Annotated[str | None, Field(max_length=200)] = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]] | None, Field(max_length=1)] = None


class LabelsRequest(Strict):
    """A typed question: which of these labels?"""

    model: Id
    clip: Annotated[Url, Field(description="The clip, by URL or by the id of an upload.")]
    question: Text | None = None
    labels: Labels = "ekman7"
    think: Annotated[bool, Field(description="Write the reasons first; without, one pass of the model.")] = False
    senses: Annotated[
        list[Literal["video", "audio"]],
        Field(min_length=1, max_length=2, description="Judge from these alone, whatever the clip has."),
    ] = ["video", "audio"]


# ---- what comes out ----


class Claim(Strict):
    """One claim of the reasons, checked against the clip: the fields of `omni.evidence.Evidence`."""

    sentence: str
    modality: Literal["face", "voice"]
    cue: str
    polarity: Literal[1, -1]
    verdict: Literal["supported", "contradicted", "uncheckable"]
    t0: float | None
    t1: float | None


class Look(Strict):
    """A stretch of a stream that the fusion adapter attended to: `omni.answer.Look`."""

    stream: str
    from_s: float
    to_s: float
    weight: float


class Judged(Strict):
    """What is said of a clip, and what there was to go on."""

    label: str
    confidence: Annotated[float, Field(ge=0, le=1)]
    labels: Annotated[dict[str, float], Field(description="A probability for every label; they sum to one.")]
    thought: str
    modalities: list[str]
    warnings: list[str]
    duration_s: float
    transcript: str | None
    evidence: list[Claim]
    gates: dict[str, float] | None
    maps: list[Look]


class Emotion(Judged):
    """What the model says about the clip, and what it had to go on: the fields of `omni.answer.Answer`."""

    well_formed: bool


class ErrorOf(Strict):
    message: str
    type: str
    param: str | None
    code: str


class Error(Strict):
    error: ErrorOf


class PromptDetails(Strict):
    cached_tokens: int


class CompletionDetails(Strict):
    reasoning_tokens: int


class Usage(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(Strict):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Strict):
    content: list[Logprob]
    refusal: None = None


class Reply(Strict):
    role: Literal["assistant"]
    content: str
    reasoning_content: str | None
    refusal: None
    emotion: Emotion


class Choice(Strict):
    index: int
    message: Reply
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Strict):
    """A chat completion; streamed, `chat.completion.chunk` objects with `delta` in place of `message`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class LabelsReply(Judged):
    object: Literal["labels"]
    model: str


class ModelOf(Strict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Strict):
    object: Literal["list"]
    data: list[ModelOf]


class FileReply(Strict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class FilesReply(Strict):
    object: Literal["list"]
    data: list[FileReply]
    has_more: bool


class Deleted(Strict):
    id: str
    object: Literal["file"]
    deleted: bool


class Health(Strict):
    status: Literal["ok", "stopping"]


def space_of(labels: str | list[str] | None) -> LabelSpace:
    """The label space of a request. A name is one that we know, never a file."""
    return label_space(EKMAN7 if labels is None else labels)
