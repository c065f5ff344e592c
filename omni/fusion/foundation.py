"""Mechanisms of the first stage, foundation: is anything before the language model better than a projection?

    concat                  nothing: the control
    temporal_attention      when to look inside a stream            [1]
    neuro_fuzzy             rules over all streams, softly fired     [2]
    bimodal_autoencoder     one code that regenerates every stream   [5]
    multimodal_attention    self-attention over all streams' steps   [7]

Numbers in brackets are those of the review that this comparison follows (doi 10.54097/tgf6bd67). Of [1], [2], [5] and
[7] only abstracts could be read. Letters: see `contract.py`; `h_m` is a stream on the common grid, (B, K, d).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Entered, Fusion, Mixed, pool, shares_of, whole
from .layers import AttentionLayer


class Concat(Fusion):
    """The control: every stream gets its own share of the soft tokens, and the language model does the fusing.

    As in R1-Omni (arXiv 2503.05379), where projected vision and audio tokens are spliced one after the other; the
    common clock is ours. Fidelity: exact idea.

    Args (options):
        shares: soft tokens of each stream, in order; must sum to `tokens`. Default: equal shares.
    """

    stage, attention, depth = "control", "none (the language model's)", "0"
    source, fidelity = "R1-Omni, arXiv 2503.05379", "exact idea"

    def build(self, shares: dict[str, int] | None = None) -> None:
        """Check the shares; there are no layers of its own."""
        self.shares = shares or shares_of(self.tokens, self.streams)
        if set(self.shares) != set(self.streams) or sum(self.shares.values()) != self.tokens:
            raise ValueError(f"shares {self.shares} must name the streams {self.streams} and sum to {self.tokens}.")

    def fuse(self, x: Entered) -> Mixed:
        """Pool every stream to its share and put them one after the other."""
        return whole(torch.cat([pool(x.hidden[m], x.masks[m], self.shares[m]) for m in self.streams], 1))


class TemporalAttention(Fusion):
    """Additive attention over time, in each stream by itself.

        s_t = BiLSTM(h)_t      e_t = v' tanh(W s_t + b)      a = softmax_t(e)      out_t = K a_t s_t

    The mean of the K steps is Σ a_t s_t, so a stream that gets one token gives exactly the read-out of the source.
    Source: [1] BiLSTM-Attention for dynamic facial expressions (Chen et al., ICCSE 2020), a system for faces alone.
    Dropped: its convolutional trunk (the vision tower stands there) and its classifier. Fidelity: inferred, the
    standard form from the title. Maps: `a` of each stream over bins, (B, K), summing to one.
    """

    stage, attention, depth = "foundation", "temporal, inside a stream", "0"
    source, fidelity = "[1] Chen et al., ICCSE 2020", "inferred"

    def build(self) -> None:
        """A BiLSTM and a scorer of steps for each stream."""
        half, width = self.width // 2, self.width
        self.recur = self.each(lambda: nn.LSTM(width, half, batch_first=True, bidirectional=True))
        self.score = self.each(
            lambda: nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        )
        self.shares = shares_of(self.tokens, self.streams)

    def fuse(self, x: Entered) -> Mixed:
        """Weigh the steps of each stream, and give it its share of the tokens."""
        parts, maps, looks = [], {}, {}
        for name, h in x.align().items():
            states = self.recur[name](h)[0]  # (B, K, d)
            weights = self.score[name](states).softmax(1)  # (B, K, 1)
            weighed = self.bins * weights * states
            parts.append(pool(weighed, whole(weighed).mask, self.shares[name]))
            maps[name] = weights[..., 0]
            looks[name] = x.steps(name, maps[name])
        return whole(torch.cat(parts, 1), maps=maps, looks=looks)


class NeuroFuzzy(Fusion):
    """Fuzzy rules over all streams, each a Gaussian in the joint space with a linear consequent.

        u_m = W_m h_m          z_t = [u_m]_m
        w   = softmax_r(-1/2 mean_j ((z_j - c_rj) / sigma_rj)²)                 firing of rule r
        Z   = [w_r A_r z]_r    out = W [Z, tanh(E Z)]                           fuzzy and enhancement nodes
        aux = mean over pairs m, n of  -mean_j Cov(û_m, û_n)_jj + mean_ij off-diagonal Cov(û_m)_ij² + the same of û_n

    with û the time means, standardised over the batch (soft CCA; a clip without one of the two streams is left out).
    The exponent is a mean and not a sum over the dimensions of z, else every membership underflows beyond a hundred.
    Source: [2] two-stage fuzzy fusion (Wu et al., IEEE TAC 13(2), 2022): CCA, then a fuzzy broad learning system.
    Dropped: LBP-TOP and spectrogram front ends, k-means centres, random consequents and the ridge solution: all is
    learned by gradient. Fidelity: interpretation. Maps: `rules`, the firing (B, K, R), rows summing to one.

    Args (options):
        rules: R.
        nodes: fuzzy nodes of a rule.
        enhanced: enhancement nodes.
    """

    stage, attention, depth = "foundation", "none (soft rules, CCA)", "1"
    source, fidelity = "[2] Wu et al., IEEE TAC 2022", "interpretation"

    def build(self, rules: int = 8, nodes: int = 16, enhanced: int = 64) -> None:
        """Projections, centres and spreads of rules, consequents."""
        joint = len(self.streams) * self.width
        self.correlate = self.each(lambda: nn.Linear(self.width, self.width))
        self.centres = nn.Parameter(torch.randn(rules, joint) * 0.5)
        self.log_spread = nn.Parameter(torch.zeros(rules, joint))
        self.consequent = nn.Linear(joint, rules * nodes)
        self.enhance = nn.Linear(rules * nodes, enhanced)
        self.mix = nn.Linear(rules * nodes + enhanced, self.width)

    def firing(self, z: Tensor) -> Tensor:
        """Normalised firing of the rules: (..., M d) -> (..., R)."""
        away = (z[..., None, :] - self.centres) / self.log_spread.exp()
        return (-0.5 * away.square().mean(-1)).softmax(-1)

    def fuse(self, x: Entered) -> Mixed:
        """Fire the rules at every bin."""
        u = {m: self.correlate[m](h) for m, h in x.align().items()}
        z = torch.cat(list(u.values()), -1)  # (B, K, M d)
        fired = self.firing(z)  # (B, K, R)
        nodes = (fired[..., None] * self.consequent(z).unflatten(-1, (fired.shape[-1], -1))).flatten(-2)
        mixed = self.mix(torch.cat([nodes, self.enhance(nodes).tanh()], -1))
        aux = soft_cca([h.mean(1) for h in u.values()], x.present)
        return whole(mixed, aux=aux, maps={"rules": fired})


def soft_cca(views: list[Tensor], present: Tensor) -> Tensor:
    """Correlation of M views (B, d) turned into a loss: -1 where all pairs agree and no dimension repeats another.

    Args:
        present: (B, M); a pair counts over the clips that have both. With fewer than two such clips it counts nothing.
    """
    loss = views[0].new_zeros(())
    pairs = [(i, j) for i in range(len(views)) for j in range(i)]
    for i, j in pairs:
        both = present[:, i] & present[:, j]
        if int(both.sum()) > 1:
            a, b = standard(views[i][both]), standard(views[j][both])
            loss = loss + (repeats(a) + repeats(b) - (a * b).mean()) / len(pairs)
    return loss


def standard(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the batch, (B, d)."""
    return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-4)


def repeats(x: Tensor) -> Tensor:
    """Mean square correlation of different dimensions of standardised x (B, d)."""
    covariance = x.T @ x / len(x)
    return (covariance - covariance.diag().diag()).square().mean()


class BimodalAutoencoder(Fusion):
    """One code from which every stream is regenerated, also those that it was not given.

        z_t = enc([u_m h_m]_m)      ĥ_m = dec_m(z_t)      aux = mean over streams of |ĥ_m - sg(h_m)|²

    u_m in {0, 1} says whether stream m is given. In training streams that are there are switched off at random (at
    least one stays), so that one has to predict another; a missing stream is then nothing new. aux counts over streams
    that are really there. Source: [5] bimodal deep auto-encoder of face and EEG (Zhang, IEEE Access 2020), where the
    second stream is physiological; ours takes any. Dropped: decision tree, sparse face codes, RBM pre-training, SVM.
    Fidelity: exact idea, with GELU instead of the sigmoid. Maps: squared error of each stream over
    bins, (B, K).

    Args (options):
        drop: chance that a stream is switched off in training.
    """

    stage, attention, depth = "foundation", "none (shared code)", "1"
    source, fidelity = "[5] Zhang, IEEE Access 2020", "exact idea"

    def build(self, drop: float = 0.5) -> None:
        """Encoder of all streams together, a decoder for each."""
        d = self.width
        self.encode = nn.Sequential(nn.Linear(len(self.streams) * d, 2 * d), nn.GELU(), nn.Linear(2 * d, d), nn.GELU())
        self.decode = self.each(lambda: nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d)))
        self.drop = drop

    def code(self, streams: dict[str, Tensor], given: Tensor) -> Tensor:
        """Streams {m: (B, K, d)} and which of them are given (B, M) to their code (B, K, d)."""
        return self.encode(torch.cat([streams[m] * given[:, i, None, None] for i, m in enumerate(self.streams)], -1))

    def fuse(self, x: Entered) -> Mixed:
        """Encode what is given and measure how well all of it is regenerated."""
        streams = x.align()
        z = self.code(streams, self._given(x.present))
        errors = {m: (self.decode[m](z) - h.detach()).square().mean(-1) for m, h in streams.items()}  # (B, K)
        each = torch.stack([e.mean(1) for e in errors.values()], 1)  # (B, M)
        aux = (each * x.present).sum() / x.present.sum().clamp(min=1)
        return whole(z, aux=aux, maps={m: e.detach() for m, e in errors.items()})

    def _given(self, present: Tensor) -> Tensor:
        """What the encoder gets of what is there: all of it, or some in training."""
        if not self.training:
            return present
        kept = present & (torch.rand(present.shape, device=present.device) > self.drop)
        return torch.where(kept.any(1, keepdim=True), kept, present)


class MultimodalAttention(Fusion):
    """Recurrence for the order, then one multi-head self-attention over the steps of all streams.

        s_m = LN(LSTM_m(h_m)) + tag_m      S = [s_m]_m, M K steps
        S'  = LN(S + MHA(S, S, S))         S'' = LN(S' + FFN(S'))

    Links inside a stream and between streams compete in one softmax. The LN of the states is ours. Source: [7] RNN with
    multimodal attention for MuSe-Stress and MuSe-Physio (Cai et al., MuSe 2021), where `physio` is at home too.
    Dropped: hand-made features, late-fusion ensembles, the CCC head. Fidelity: inferred from
    the abstract. Maps: `self`, (B, M K, M K), streams in the order of `streams`; rows sum to one.

    Args (options):
        layers: attention layers.
        heads: of the attention; must divide `width`.
    """

    stage, attention, depth = "foundation", "joint multi-head self", "1"
    source, fidelity = "[7] Cai et al., MuSe 2021", "inferred"

    def build(self, layers: int = 1, heads: int = 4) -> None:
        """An LSTM and a tag for each stream, attention layers for all."""
        self.recur = self.each(lambda: nn.LSTM(self.width, self.width, batch_first=True))
        self.tag = nn.ParameterDict({m: nn.Parameter(torch.randn(self.width) * 0.02) for m in self.streams})
        self.layers = nn.ModuleList(AttentionLayer(self.width, heads) for _ in range(layers))

    def fuse(self, x: Entered) -> Mixed:
        """Attend over all steps of all streams."""
        s = torch.cat([F.layer_norm(self.recur[m](h)[0], (self.width,)) + self.tag[m] for m, h in x.align().items()], 1)
        for layer in self.layers:
            s, weights = layer(s, s)
        seen = weights.mean(1).split(self.bins, 1)  # what each bin of each stream gets, (B, K)
        looks = {m: x.steps(m, got) for m, got in zip(self.streams, seen, strict=True)}
        return whole(s, maps={"self": weights}, looks=looks)
