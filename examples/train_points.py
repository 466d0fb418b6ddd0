"""Train the MLP on a swiss roll from Python, and draw its samples beside the data.

python examples/train_points.py points.png
"""

import sys

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.figures.images import save_png
from tinyddpm.figures.points import scatter
from tinyddpm.model.config import Config
from tinyddpm.model.sampling import draw
from tinyddpm.training.assembly import make_trainer

CONFIG = Config.from_dict(
    {
        "data": {"source": "swiss-roll"},
        "network": {"name": "mlp", "width": 128, "depth": 3},
        "schedule": {"name": "cosine", "timesteps": 100},
        "training": {"steps": 3000, "batch_size": 256, "learning_rate": 1e-3, "warmup": 100, "ema": 0.999},
        "sampling": {"variance": "small"},
    }
)


def main(path: str) -> None:
    dataset = open_dataset(CONFIG.data.source)
    trainer = make_trainer(CONFIG, load_backend("numpy"), dataset)
    for _ in range(CONFIG.training.steps):
        result = trainer.train_step()
        if result.step % 500 == 0:
            print(f"step {result.step}: loss {result.loss:.3f}, held out {trainer.validation_loss():.3f}")
    numbers = np.arange(4000)
    drawn = draw(
        trainer.model, trainer.ema, numbers, Asked(None), seed=0, sampling=CONFIG.sampling, batch_size=len(numbers)
    )
    save_png(path, np.concatenate([scatter(dataset.read(numbers)), scatter(drawn.values)], axis=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
