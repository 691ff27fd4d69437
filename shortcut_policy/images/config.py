"""What can be set about samples of image models, their benchmark and latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.images.classifier import ClassifierSettings
from shortcut_policy.images.metrics import FEWEST
from shortcut_policy.paths import written_out
from shortcut_policy.settings import Count, Index, Seed, listed


@dataclass(frozen=True, kw_only=True)
class ImageBenchmarkConfig:
    """Settings of an image benchmark; ``configs/benchmark_images.yaml`` describes them.

    Attributes:
        entries: The methods.
        output: Folder of trainings and samples.
        results: Folder of rows, tables and figures.
        title: Of the table.
        training: Overrides of ``configs/train.yaml`` that all methods share.
        trained_only: Leave out what would have to be trained first.
        samples: For each method and step count.
        noise_seed: Sample i of every method comes from the noise of it and i.
        batch_size: Samples that are drawn at a time.
        bf16: Draw them with matrix products in bfloat16.
        features: What images are compared by, see `make_features`,
        inception_weights: as well,
        classifier: as well,
        cache: as well,
        device: as well; samples are drawn there, too.
        shown: Samples of each method in the picture.
        document: Markdown file that gets the table; None for none.
        marker: Of its place there.
        trust: Modules whose classes a checkpoint may name, see `load_policy`.
    """

    entries: Sequence[Method]
    output: Path
    results: Path
    title: str = "Images"
    training: Sequence[str] = ()
    trained_only: bool = False
    samples: Annotated[int, Ge(FEWEST)] = 1000
    noise_seed: Index = 0
    batch_size: Count = 500
    bf16: bool = False
    features: Literal["classifier", "inception"] = "classifier"
    inception_weights: str | None = None
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cache: Path = Path("outputs/cache")
    device: str = "cpu"
    shown: Count = 20
    document: Path | None = None
    marker: str | None = None
    trust: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", written_out(self.output))


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Settings of samples of an image model; ``configs/sample.yaml`` describes them.

    Attributes:
        checkpoint: A checkpoint folder or run folder.
        steps: Step counts, each from the same noise.
        classes: Names or numbers of classes, in turns; None for all.
        n: Samples for each step count.
        guidance: See `ImageModel.sample`.
        seed: Sample i is a function of it and i.
        batch_size: Samples that are drawn at a time.
        bf16: Draw them with matrix products in bfloat16.
        device: Where the model computes.
        output: Folder of what is written.
        trust: Modules whose classes the checkpoint may name, see `load_policy`.
    """

    checkpoint: str
    steps: Count | Sequence[Count] = (1, 4, 128)
    classes: str | int | Sequence[str | int] | None = None
    n: Count = 40
    guidance: float | None = None
    seed: Seed = 0
    batch_size: Count = 256
    bf16: bool = False
    device: str = "cpu"
    output: Path = Path("outputs/samples")
    trust: str | Sequence[str] | None = None

    @property
    def step_counts(self) -> list[int]:
        """Step counts, one at least."""
        return listed("steps", self.steps)

    @property
    def class_list(self) -> list[str | int] | None:
        """Classes, one at least, or None for all."""
        return None if self.classes is None else listed("classes", self.classes)


@dataclass(frozen=True, kw_only=True)
class EncodeLatentsConfig:
    """Settings of encoding images; ``configs/encode_latents.yaml`` describes them.

    Attributes:
        source: Specification of the `ImageFolder`, see `build`.
        output: The store.
        vae: See `Autoencoder`.
        posterior: Take the mean of each image's latent, or draw one.
        mirrored: See `encode`,
        seed: as well, of the draws,
        batch_size: as well,
        block: as well.
        device: Where the autoencoder computes.
    """

    source: Mapping[str, Any]
    output: Path
    vae: str
    posterior: Literal["mean", "sample"] = "mean"
    mirrored: bool = True
    seed: Seed = 0
    batch_size: Count = 32
    block: Count = 4096
    device: str = "cpu"
