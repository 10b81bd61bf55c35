"""What a model was trained on, if a file beside its weights says so, and what in a run lies outside of that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from opensora.errors import WeightsError, shortened
from opensora.files import find_path

FILE = "trained_on.json"  # in the transformer's folder
_MAX_WORDS = 6  # words that a line names
_ALL = "--words prints all it knows"


@dataclass(frozen=True)
class TrainedOn:
    """The words, captions and sizes of a model's training data.

    Attributes:
        name: name of the model.
        about: what its videos show, in a few words.
        words: all words of its captions, by kind.
        captions: a regular expression that matches all its captions, in lower case.
        examples: some captions.
        videos: (frames, height, width) in pixels.
    """

    name: str
    about: str
    words: dict[str, list[str]]
    captions: re.Pattern[str]
    examples: list[str]
    videos: list[tuple[int, int, int]]

    def __str__(self) -> str:
        """Describe everything for people, in several lines."""
        lines = [f"{self.name} makes {self.about}.", *(f"{kind}: {', '.join(w)}" for kind, w in self.words.items())]
        return "\n".join([*lines, f"videos: {self.sizes()}", "captions such as", *(f"  {t}" for t in self.examples)])

    def sizes(self) -> str:
        """Describe the sizes, as in "1 or 17 frames of 128 x 128 pixels, 17 frames of 128 x 192 pixels"."""
        lengths: dict[tuple[int, int], list[str]] = {}
        for frames, *size in sorted(self.videos):
            lengths.setdefault(tuple(size), []).append(str(frames))
        return ", ".join(
            f"{' or '.join(filter(None, (', '.join(most), last)))} frames of {height} x {width} pixels"
            for (height, width), (*most, last) in lengths.items()
        )

    def outside(self, captions: Sequence[str], videos: Iterable[tuple[int, int, int]]) -> list[str]:
        """Return a sentence each about captions, and about sizes and lengths, that the training data does not have.

        Args:
            captions: as the text encoder reads them.
            videos: (frames, height, width) in pixels.
        """
        return [line for line in (self._odd_captions(captions), self._odd_sizes(videos)) if line]

    def _odd_captions(self, captions: Sequence[str]) -> str:
        known = {word for words in self.words.values() for word in words}
        texts = {text: " ".join(text.lower().split()).rstrip(" .") for text in captions}
        odd = [text for text, plain in texts.items() if not re.fullmatch(self.captions, plain)]
        if not odd:
            return ""
        more = len(odd) - 1
        where = f"'{shortened(odd[0], 80)}'" + (f" and {more} more prompt{'s' * (more > 1)}" if more else "")
        unknown = dict.fromkeys(word for text in odd for word in re.findall(r"\w+", texts[text]) if word not in known)
        if not unknown:
            return f"{self.name} was not trained on captions like {where}, but like '{self.examples[0]}'; {_ALL}"
        named = ", ".join(f"'{word}'" for word in list(unknown)[:_MAX_WORDS]) + (", ..." * (len(unknown) > _MAX_WORDS))
        return f"{self.name} does not know {named} in {where}: it makes {self.about}; {_ALL}"

    def _odd_sizes(self, videos: Iterable[tuple[int, int, int]]) -> str:
        odd = next((video for video in videos if video not in self.videos), None)
        if odd is None:
            return ""
        size = "{} frames of {} x {} pixels".format(*odd)
        return f"{self.name} was trained on {self.sizes()}; a video of {size} may not show its prompt"


def trained_on(from_pretrained: str) -> TrainedOn | None:
    """Return what the transformer in this folder was trained on; None if no file says so.

    Raises:
        WeightsError: the file has another form.
    """
    file = find_path(f"{from_pretrained}/{FILE}")
    if file is None:
        return None
    try:
        return TypeAdapter(TrainedOn).validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise WeightsError(f"{file} cannot be used: {where}{first['msg']}; delete it, as no video needs it") from error
