"""Learn the five tenses of a verb with a scalar autograd engine and 141 parameters.

The input is a tense and a person, the output a distribution over the forms of "to go".  Tense and
person determine the form, so the entropy is 0 nats: all of the loss is KL divergence, and training
can remove all of it.  The loss of an untrained model is near log 5 = 1.609 nats, that of a uniform
distribution.

Run it: ``python examples/learn_a_verb.py``
"""

from __future__ import annotations

import math
from random import Random

from kullback.theory.autograd import MLP, Value, cross_entropy, softmax, zero_grad

PERSONS = ("I", "you", "she", "we", "you all", "they")
TENSES = ("infinitive", "present", "past", "past participle", "future")
FORMS = ("go", "goes", "went", "gone", "will go")


def form_of(tense: str, person: str) -> str:
    """The true form: English marks the person only in the third singular of the present."""
    if tense == "present":
        return "goes" if person == "she" else "go"
    return {
        "infinitive": "go",
        "past": "went",
        "past participle": "gone",
        "future": "will go",
    }[tense]


def encode(tense: str, person: str) -> list[float]:
    """The one-hot tense and the one-hot person, concatenated: eleven inputs."""
    return [float(tense == t) for t in TENSES] + [float(person == p) for p in PERSONS]


def train(model: MLP, steps: int, rate: float) -> list[float]:
    """Gradient descent on the mean cross-entropy of the thirty cells; the loss before each step."""
    cells = [(encode(t, p), FORMS.index(form_of(t, p))) for t in TENSES for p in PERSONS]
    losses = []
    for step in range(steps):
        total = sum((cross_entropy(model(x), y) for x, y in cells), Value(0.0))
        loss = total * (1.0 / len(cells))
        zero_grad(model.parameters())
        loss.backward()
        for parameter in model.parameters():
            parameter.data -= rate * parameter.grad
        losses.append(loss.data)
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:3d}   loss = KL = {loss.data:.4f} nats   entropy = 0")
    return losses


def main() -> None:
    """Train, then print the most probable form and its probability for each of the thirty cells."""
    model = MLP([len(TENSES) + len(PERSONS), 8, len(FORMS)], Random(0), activation=Value.tanh)
    print(
        f"{len(model.parameters())} parameters; loss of a uniform distribution "
        f"{math.log(len(FORMS)):.4f} nats"
    )
    train(model, steps=121, rate=2.0)
    print()
    print(" " * 16 + "".join(f"{person:>15}" for person in PERSONS))
    right = 0
    for tense in TENSES:
        cells = []
        for person in PERSONS:
            q = [v.data for v in softmax(model(encode(tense, person)))]
            form = FORMS[q.index(max(q))]
            right += form == form_of(tense, person)
            cells.append(f"{form} {100 * max(q):.0f} %")
        print(f"{tense:16}" + "".join(f"{cell:>15}" for cell in cells))
    print(f"\n{right} of {len(TENSES) * len(PERSONS)} forms are right")


if __name__ == "__main__":
    main()
