"""The smallest run that has all that a run has: it takes a second or two."""

TINY = {
    "dataset": "digits",
    "train_size": 96,
    "test_size": 50,
    "model": "resnet-small",
    "width": 2,
    "gamma": 1.0,
    "batch_size": 16,
    "pretrain_epochs": 1,
    "epochs": 2,
    "sigma_every": 4,
    "record_every": 3,
}
