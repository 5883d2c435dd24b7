"""Draw the README's picture from the committed CIFAR-10 runs: ``python -m workflow.picture``."""

from pathlib import Path

from matplotlib.figure import Figure

from unrolling.plotting import overview, theme
from unrolling.runs import load_profile, published, trace_frame
from unrolling.studies.frames import after_steps

PICTURE = Path(__file__).resolve().parent.parent / "book" / "_assets" / "overview.png"


def main() -> None:
    """Write the picture, on white, so that it reads on any page."""
    runs = published(load_profile("small").experiment("training_with_sd_loss").configs("strength"), "small")
    rows = after_steps(trace_frame(runs), runs[0].result["steps_per_epoch"])
    with theme("light"):
        figure = Figure(figsize=(9.0, 3.0), layout="constrained", facecolor="white")
        overview(rows, figure, num_classes=runs[0].result["num_classes"])
        figure.savefig(PICTURE, dpi=150, facecolor="white", metadata={"Software": None})
    print(f"{len(runs)} runs drawn into {PICTURE.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
