"""The sentence patterns of the reviews world. A slot such as `{part}` is filled by the writer in `alignkit/lab/grammar.py`.

`{opposite}` and its like are words of the other sign than the clause: `the script is never dull` is praise. `{is}`, `{has}` and `{s}`
agree with the `{part}` named before them, and `{a}` becomes `a` or `an`.
"""

from __future__ import annotations

from alignkit.lab.lexicon import Words

PART_CLAUSES = Words(
    good=(
        "{part} {is} {adjective}",
        "{part} {is} {adjective}",
        "{part} {is} {own} and {own}",
        "{part} remain{s} {plain} throughout",
        "{part} {is} {plain} from the first scene to the last",
        "{part} {is} never {opposite}",
        "{part} {is} not {opposite} for one moment",
        "{part} {is} so {gradable} that time flies",
        "{part} work{s} {manner}",
        "{part} add{s} {part_virtue} to every scene",
        "{part} {is} {a} {thing}",
        "I {felt} {part}",
    ),
    bad=(
        "{part} {is} {adjective}",
        "{part} {is} {adjective}",
        "{part} {is} {own} and {own}",
        "{part} remain{s} {plain} throughout",
        "{part} {is} {plain} from the first scene to the last",
        "{part} {is} never {opposite}",
        "{part} {is} not {opposite} for one moment",
        "{part} {is} so {gradable} that I looked at the clock",
        "{part} fall{s} painfully flat",
        "{part} fail{s} {manner}",
        "{part} {has} no {part_virtue}",
        "{part} {is} {a} {thing}",
        "I {felt} {part}",
    ),
)
FILM_CLAUSES = Words(
    good=(
        "{film} is {film_adjective}",
        "this is {a} {film_adjective} {noun}",
        "{film} is full of {virtue} and {virtue}",
        "the film has all the {virtue} of a classic",
        "there is never {a} {scene_opposite} moment",
        "there is not one {scene_opposite} scene in it",
        "the director never makes {a} {choice_opposite} choice",
        "there is {virtue} in every scene",
        "I {felt} every minute of it",
        "I did not regret one minute of it",
        "{film} entertains from start to finish",
        "{film} succeeds on every level",
    ),
    bad=(
        "{film} is {film_adjective}",
        "this is {a} {film_adjective} {noun}",
        "{film} has no {virtue} and no {virtue}",
        "the film has none of the {virtue} of a classic",
        "there is never {a} {scene_opposite} moment",
        "there is not one {scene_opposite} scene in it",
        "the director never makes {a} {choice_opposite} choice",
        "I {felt} every minute of it",
        "I did not {feel} one minute of it",
        "{film} takes two hours to fail",
        "{film} drags badly",
        "I was bored long before the end",
    ),
)

# What is conceded is milder than `{main}`, which is of the other sign and has the last word.
CONCESSIONS = Words(
    good=("{part} {is} {gradable}", "{part} {is} {mildly} {gradable}", "{part} {is} never {opposite}"),
    bad=("{part} {is} {gradable}", "{part} {is} {mildly} {gradable}", "{part} {is} not always {opposite}"),
)
_EITHER_WAY = (
    "although {other}, {main}",
    "while {other}, {main}",
    "{other}, but {main}",
    "{other}, but {main}",
    "{other}, yet {main}",
    "despite {other_quality}, {main}",
)
CONTRASTS = Words(
    good=(*_EITHER_WAY, "even {other_quality} cannot ruin the {noun}"),
    bad=(*_EITHER_WAY, "even {other_quality} cannot save the {noun}"),
)

CONTINUING = Words(
    good=("", "", "", "what is more, ", "above all, ", "best of all, ", "happily, "),
    bad=("", "", "", "what is more, ", "above all, ", "worst of all, ", "sadly, ", "unfortunately, "),
)
TURNING = ("still, ", "even so, ", "all the same, ", "on the other hand, ")

CLOSINGS = Words(
    good=(
        "I recommend it",
        "I recommend it to anyone who likes a good {noun}",
        "I would happily see it again",
        "It is worth every minute",
        "Do not miss it",
        "What {a} {thing}",
        "It deserves every award",
        "It will delight everyone",
        "{A} {film_extreme} {noun}",
        "See it with a friend",
    ),
    bad=(
        "I cannot recommend it",
        "I do not recommend it to anyone",
        "I regret buying a ticket",
        "It is not worth the ticket",
        "Give it a miss",
        "What {a} {thing}",
        "It is a waste of an evening",
        "It will bore everyone",
        "{A} {film_extreme} {noun}",
        "Avoid it",
    ),
)
MEASURED_CLOSINGS = Words(
    good=(
        "On balance, I recommend it",
        "On the whole, I liked it",
        "In the end, I enjoyed it",
        "It is just worth the ticket",
        "All in all, it is {a} {film_gradable} {noun}",
    ),
    bad=(
        "On balance, I cannot recommend it",
        "On the whole, I disliked it",
        "In the end, it bored me",
        "It is not quite worth the ticket",
        "All in all, it is {a} {film_gradable} {noun}",
    ),
)

PREDICATES = (
    "{a} {film_adjective} {noun}",
    "{film_gradable} and {film_gradable}",
    "never {film_opposite}",
    "{a} {film_adjective} {noun} with {quality}",
    "{a} {noun} with {quality} and {quality}",
)
TURNED_PREDICATES = Words(
    good=(
        "{a} {other_film_gradable} {noun}, but with {quality}",
        "{mildly} {other_film_gradable}, but {main}",
        "not always {film_gradable}, but {main}",
    ),
    bad=(
        "{a} {other_film_gradable} {noun}, but with {quality}",
        "{mildly} {other_film_gradable}, but {main}",
        "never {film_gradable}, but {main}",
    ),
)

FILMS = ("the film", "the film", "the whole film", "the picture")
