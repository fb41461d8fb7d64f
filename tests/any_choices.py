"""Any choices of a run, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from recipes.tsmr import Adversary, Attack, Augment, Margin, Stage, TSMRConfig

weights = st.floats(0, 1e6)
positive = st.floats(1e-6, 1e6)
share = st.floats(0, 1)
part = st.floats(0, 1, exclude_max=True)
stages = st.builds(
    Stage, epochs=st.integers(1, 99), rate=positive, cosine=positive, mse=weights, hard=weights
)
configs = st.builds(
    TSMRConfig,
    block=st.sampled_from(["dbb", None, "conv(k) + conv(1)"]),
    teacher_input=st.sampled_from(["raw", ("raw", "insightface")]),
    stages=st.lists(stages, min_size=1, max_size=3),
    margin=st.builds(Margin, scale=positive, classes=st.none() | st.integers(2, 99)),
    adversary=st.builds(Adversary, hidden=st.integers(1, 999), warmup=share),
    attack=st.builds(Attack, radius=positive),
    augment=st.builds(Augment, crop=share, occlusion=share),
    batch_size=st.integers(2, 999),
    lr=positive,
    ema=part,
    seed=st.integers(0, 2**63 - 1),
    flip=st.booleans(),
)
