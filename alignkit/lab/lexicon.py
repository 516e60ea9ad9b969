"""The words of the reviews world. Every word of praise or blame is one that VADER's lexicon scores with that sign."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final


@final
class Number(Enum):
    """How a noun behaves: `a script is`, `acting is`, `costumes are`."""

    COUNT = "count"
    MASS = "mass"
    PLURAL = "plural"


@final
@dataclass(frozen=True, slots=True)
class Words:
    """Words of praise and their counterparts of blame."""

    good: tuple[str, ...]
    bad: tuple[str, ...]

    def of(self, polarity: int) -> tuple[str, ...]:
        """The words of praise for +1, of blame for -1."""
        return self.good if polarity > 0 else self.bad


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Something about a film that a review can praise or blame."""

    name: str
    number: Number
    own: Words
    """Adjectives that suit this part best."""
    adjectives: Words
    """The same, and those that suit every part."""


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of film."""

    label: str
    """What a prompt calls it: `crime drama`."""
    noun: str
    """What a completion calls it, a word without sentiment: `drama`."""
    parts: tuple[Part, ...]
    adjectives: Words
    """Of the film as a whole."""


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _words(good: str, bad: str) -> Words:
    return Words(_split(good), _split(bad))


def _part(name: str, number: Number, good: str, bad: str) -> Part:
    # Twice its own adjectives and once those of every part: an ending is satisfying more often than it is good.
    own = _words(good, bad)
    return Part(name, number, own, Words(own.good * 2 + ANY_PART.good, own.bad * 2 + ANY_PART.bad))


ANY_PART = _words(
    "good charming impressive effective superb brilliant wonderful excellent splendid magnificent outstanding great delightful",
    "bad poor dull weak irritating unimpressive terrible awful dreadful horrible pathetic hopeless appalling",
)
ANY_FILM = _words(
    "good charming engaging entertaining enjoyable clever lively likeable elegant intelligent satisfying thoughtful original rewarding"
    " superb brilliant wonderful excellent splendid terrific fantastic delightful",
    "bad poor dull weak boring lazy dreary insipid messy foolish disappointing annoying frustrating depressing"
    " terrible awful dreadful horrible pathetic hopeless meaningless dismal",
)
SCENE = _words("charming clever convincing exciting honest funny", "dull boring dreary awkward embarrassing foolish")
CHOICE = _words("clever bold creative intelligent brave", "lazy careless foolish stupid dull")

EXTREME = frozenset(
    _split(
        "superb brilliant wonderful excellent splendid magnificent outstanding great delightful terrific fantastic perfect gorgeous"
        " stunning breathtaking hilarious thrilling fascinating terrible awful dreadful horrible pathetic hopeless appalling meaningless"
        " dismal ridiculous idiotic talentless passionless"
    )
)
"""Adjectives that take `utterly` and not `very`; the others take `very`, and `never` before them makes sense."""
TOO_PLAIN = frozenset(_split("good bad poor weak great unimpressive"))
"""Adjectives that are odd after `never`."""
EXTREME_ADVERBS = Words(
    good=("utterly", "absolutely", "simply", "quite", "truly"),
    bad=("utterly", "absolutely", "simply", "completely", "totally"),
)
GRADABLE_ADVERBS = Words(
    good=("very", "really", "extremely", "remarkably", "incredibly", "unusually", "fairly", "rather"),
    bad=("very", "really", "extremely", "incredibly", "unusually", "rather", "somewhat", "slightly"),
)
MILD_ADVERBS = Words(good=("fairly", "rather", "mildly", "somewhat"), bad=("fairly", "rather", "slightly", "somewhat"))
MANNER = _words("beautifully brilliantly wonderfully splendidly perfectly effectively", "badly terribly miserably")
VIRTUES = ("charm", "warmth", "grace", "energy", "passion", "tenderness", "honesty", "intelligence", "humour", "beauty")
PART_VIRTUES = ("charm", "energy", "grace")
THINGS = Words(
    good=("delight", "joy", "triumph", "treat", "pleasure"),
    bad=("mess", "disaster", "disappointment", "failure", "bore"),
)
FELT = _words("enjoyed loved admired", "hated disliked")
FEEL = ("enjoy", "love", "admire")

_M, _C, _P = Number.MASS, Number.COUNT, Number.PLURAL

ACTING = _part("acting", _M, "convincing natural heartfelt sincere", "insincere passionless talentless awkward")
PERFORMANCES = _part("performances", _P, "convincing honest heartfelt passionate", "insincere passionless lazy awkward")
CAST = _part("cast", _C, "talented likeable lively confident", "talentless lazy annoying awkward")
CHARACTERS = _part("characters", _P, "likeable fascinating honest sympathetic", "annoying childish selfish boring")
SCRIPT = _part("script", _C, "clever intelligent original thoughtful", "lazy stupid trite messy")
DIALOGUE = _part("dialogue", _M, "clever honest natural intelligent", "embarrassing stupid lame idiotic")
PLOT = _part("plot", _C, "clever original fascinating engaging", "confusing ridiculous contradictory messy")
PACING = _part("pacing", _M, "energetic dynamic lively confident", "sluggish lethargic lazy dreary")
SCORE = _part("score", _C, "beautiful elegant lovely heartfelt", "dreary insipid annoying sappy")
PHOTOGRAPHY = _part("photography", _M, "gorgeous beautiful stunning elegant", "ugly dreary gloomy boring")
DIRECTION = _part("direction", _M, "confident creative bold thoughtful", "careless lazy clueless timid")
EDITING = _part("editing", _M, "confident elegant dynamic energetic", "careless messy confusing awkward")
OPENING = _part("opening", _C, "fascinating engaging bold exciting", "boring confusing awkward lazy")
ENDING = _part("ending", _C, "satisfying perfect clever heartwarming", "disappointing frustrating ridiculous stupid")
COSTUMES = _part("costumes", _P, "gorgeous elegant glamorous lovely", "ugly fake ridiculous dreary")
SETS = _part("sets", _P, "gorgeous elegant stunning beautiful", "ugly fake dreary gloomy")
LANDSCAPES = _part("landscapes", _P, "breathtaking gorgeous stunning beautiful", "dreary boring gloomy ugly")
CHASES = _part("chase scenes", _P, "exciting thrilling energetic breathtaking", "boring messy confusing ridiculous")
TWISTS = _part("twists", _P, "clever exciting thrilling original", "ridiculous stupid annoying confusing")
SONGS = _part("songs", _P, "lovely joyful heartfelt beautiful", "annoying insipid dreary sappy")
DANCING = _part("dancing", _M, "graceful joyful energetic elegant", "awkward lethargic lazy messy")
JOKES = _part("comic scenes", _P, "funny hilarious clever playful", "stupid lame childish embarrassing")
EFFECTS = _part("visual effects", _P, "stunning creative breathtaking beautiful", "fake ugly ridiculous lazy")
INTERVIEWS = _part("interviews", _P, "honest fascinating engaging intelligent", "awkward boring insincere annoying")
NARRATION = _part("narration", _M, "thoughtful intelligent honest clever", "annoying boring sappy insincere")
ARCHIVE = _part("archive footage", _M, "fascinating beautiful stunning rich", "boring dreary messy confusing")
ANIMATION = _part("animation", _M, "gorgeous playful creative vibrant", "ugly lazy dreary messy")
VOICES = _part("voices", _P, "lively playful likeable funny", "annoying lethargic childish fake")

_FICTION = (ACTING, PERFORMANCES, CAST, CHARACTERS, SCRIPT, DIALOGUE, PLOT, PACING, SCORE, PHOTOGRAPHY, DIRECTION, OPENING, ENDING)
_DOCUMENTARY = (INTERVIEWS, NARRATION, ARCHIVE, SCORE, PHOTOGRAPHY, EDITING, DIRECTION, PACING, OPENING, ENDING)
_ANIMATED = (ANIMATION, ANIMATION, VOICES, SCRIPT, PLOT, CHARACTERS, PACING, SCORE, OPENING, ENDING, SONGS)


def _kind(label: str, noun: str, parts: tuple[Part, ...], good: str = "", bad: str = "") -> Kind:
    own = _words(good, bad)
    return Kind(label, noun, parts, Words(own.good * 2 + ANY_FILM.good, own.bad * 2 + ANY_FILM.bad))


KINDS = (
    _kind("crime drama", "drama", (*_FICTION, EDITING, TWISTS), "thrilling", "confusing"),
    _kind("courtroom drama", "drama", (*_FICTION, TWISTS), "fascinating", "confusing"),
    _kind("family drama", "drama", _FICTION, "heartfelt honest", "sappy"),
    _kind("costume drama", "drama", (*_FICTION, COSTUMES, COSTUMES, SETS), "gorgeous glamorous", "lethargic"),
    _kind("historical drama", "drama", (*_FICTION, COSTUMES, SETS), "fascinating", "gloomy"),
    _kind("western", "western", (*_FICTION, LANDSCAPES, LANDSCAPES, CHASES), "bold exciting", "sluggish"),
    _kind("spy thriller", "thriller", (*_FICTION, CHASES, TWISTS, EDITING), "exciting thrilling", "confusing ridiculous"),
    _kind("heist thriller", "thriller", (*_FICTION, CHASES, TWISTS, EDITING), "exciting playful", "confusing"),
    _kind("road movie", "road movie", (*_FICTION, LANDSCAPES), "heartwarming playful", "sluggish"),
    _kind("musical", "musical", (*_FICTION, SONGS, SONGS, DANCING, COSTUMES), "joyful energetic", "lethargic sappy"),
    _kind("family comedy", "film", (*_FICTION, JOKES, JOKES), "funny hilarious", "childish stupid"),
    _kind("romantic comedy", "film", (*_FICTION, JOKES, JOKES), "funny romantic", "sappy stupid"),
    _kind("ghost story", "film", (*_FICTION, SETS, EDITING), "exciting fascinating", "ridiculous"),
    _kind("war film", "film", (*_FICTION, EFFECTS, EDITING), "powerful honest", "gloomy"),
    _kind("science fiction film", "film", (*_FICTION, EFFECTS, EFFECTS, SETS), "fascinating creative", "confusing ridiculous"),
    _kind("sports film", "film", (*_FICTION, EDITING), "exciting heartwarming", "sappy"),
    _kind("documentary", "documentary", _DOCUMENTARY, "fascinating honest", "insincere"),
    _kind("animated film", "film", _ANIMATED, "playful vibrant", "childish"),
)
SHIFTED_KINDS = (
    _kind("vampire film", "film", (*_FICTION, EFFECTS, SETS), "bold playful", "ridiculous"),
    _kind("martial arts film", "film", (*_FICTION, CHASES, EDITING), "exciting graceful", "sluggish"),
    _kind("hospital drama", "drama", (*_FICTION, TWISTS), "honest heartfelt", "sappy"),
    _kind("political thriller", "thriller", (*_FICTION, TWISTS, EDITING), "intelligent exciting", "confusing"),
    _kind(
        "concert film",
        "film",
        (SONGS, SONGS, PERFORMANCES, PHOTOGRAPHY, EDITING, DIRECTION, OPENING, ENDING),
        "joyful energetic",
        "insipid",
    ),
    _kind("nature film", "documentary", (*_DOCUMENTARY, LANDSCAPES, LANDSCAPES), "fascinating beautiful", "sappy"),
)
"""Kinds of films that no usual prompt names."""

TITLE_ADJECTIVES = _split(
    "Silent Last Golden Distant Winter Paper Glass Hidden Northern Crimson Empty Quiet Second Wooden Long Summer Velvet Stone Early Late"
    " Small Tall Blue White Black Midnight Hollow Wandering Burning Frozen Secret Narrow"
)
TITLE_NOUNS = _split(
    "Harbour Lighthouse River Orchard Bridge Garden Station Letter Clock Mountain Road Island Window Lantern Carnival Door Mirror Train"
    " Valley Tower Sister Stranger Captain Baker Pianist Judge Violin Journey Village City Coast Desert Railway School Hotel Theatre"
    " Farm Bell Forest Map"
)
TITLE_SHAPES = ("The {adjective} {noun}", "{adjective} {noun}", "A(n) {adjective} {noun}", "Beyond the {adjective} {noun}")
SUBJECTS = (
    *("two brothers", "three sisters", "a lighthouse keeper", "a retired judge", "a village baker", "a young pianist"),
    *("a country doctor", "a widow and her son", "an old sea captain", "a small railway station", "a travelling circus"),
    *("a night in the city", "a school by the sea", "a detective from the north", "a painter and her model", "a bank clerk"),
    *("an island hotel", "a family of farmers", "a summer in the mountains", "a theatre company", "a teacher and his class"),
    *("a long winter", "a stranger in town", "a letter from home"),
)
SHIFTED_SUBJECTS = (
    *("a robot and its maker", "a queen in exile", "four astronauts", "a newspaper in Berlin", "the last vineyard"),
    *("a chess champion", "an orchestra on tour", "a nurse on the night shift", "a forger in Venice", "twins who never met"),
)
"""What no usual prompt is about."""
