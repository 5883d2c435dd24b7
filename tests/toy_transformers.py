"""Transformers small enough for a dense Hessian, and folders that look like published ones."""

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, DistilBertConfig

from unrolling.data.text import learn_wordpiece
from unrolling.seeding import seeded

KINDS = ("distilbert", "bert")  # that of the paper, and that of minilm-l6
TEXTS = ("a fine and moving film", "not a good film at all", "dull dull dull", "bad and long", "")
#: Three texts as tokens, padded on the right: of four tokens, of three, and an empty one.
TOKENS = torch.tensor([[2, 5, 6, 3], [2, 4, 3, 0], [2, 3, 0, 0]])


def toy_config(kind, *, vocab_size=8, dropout=0.1, layers=2):
    """Width 4, two heads, texts of at most 8 tokens; dropout as published ones have it."""
    common = {"vocab_size": vocab_size, "max_position_embeddings": 8, "num_labels": 2}
    if kind == "distilbert":
        rates = {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": 2 * dropout}
        return DistilBertConfig(dim=4, hidden_dim=8, n_layers=layers, n_heads=2, **rates, **common)
    sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": layers, "num_attention_heads": 2}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertConfig(pad_token_id=0, **sizes, **rates, **common)


def toy_network(kind, *, attention="sdpa", head=True, seed=0, **settings):
    """Weights of spread 1/2: with the usual 0.02 attention is nearly uniform."""
    loader = AutoModelForSequenceClassification if head else AutoModel
    network = loader.from_config(toy_config(kind, **settings), attn_implementation=attention)
    with seeded(seed, "toy"), torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5)
    return network


def publish(folder, kind, *, head=False, **settings):
    """Save a network, without a head as encoders come, and a tokeniser; return the network."""
    tokenizer = learn_wordpiece(TEXTS, 60)
    network = toy_network(kind, head=head, vocab_size=tokenizer.get_vocab_size(), **settings)
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return network
