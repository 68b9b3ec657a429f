"""TiTok+STE: from a row's name to everything that its run needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.interface import NoTokens, TokenSource
from models.ste import SlotSpec
from training.ablation.backbones import BACKBONES, load_interface
from training.ablation.places import Places, borrow, describe_slots, keep
from training.ablation.study import Skip
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.titok_ste import read_slots
from training.tokenizer_files import load_tokenizer


@dataclass(frozen=True)
class TokenJob:
    """A row that can be run.

    Attributes:
        source: What makes its tokens.
        slots: Which of them may be edited.
        chosen_by: Who chose these, in a few words.
        settings: What the row changes in the recipe, as ``--set`` takes it.
    """

    source: TokenSource
    slots: SlotSpec
    chosen_by: str
    settings: tuple[str, ...] = ()

    @property
    def departures(self) -> tuple[str, ...]:
        """All settings: the tables are about tokens and slots."""
        return self.settings

    def facts(self) -> dict[str, str]:
        """What it edits."""
        return {"edit slots": describe_slots(self.slots), "chosen by": self.chosen_by}

    def record(self) -> dict[str, Any]:
        """What it edits, for programs."""
        return {
            "tokens": self.source.tokenizer_id,
            "slots": {
                "names": list(self.slots.names),
                "positions": list(self.slots.positions),
                "channels": [list(own) for own in self.slots.channels],
                "chosen_by": self.chosen_by,
            },
        }


@dataclass
class Rows:
    """Builds the rows of all tables.

    Attributes:
        tokenizer_path: The tokenizer of every row that does not ask for another.
        pairs: Training pairs, for the probe.
        slots_path: Its slot file, if there is one.
        tokenizers: Tokenizers by number of tokens, for table 4.
        budgets: Slot files by number of slots, for table 7.
        backbones: Weights by interface, for table 6.
        fixed: Recipe values that the user has set; a row leaves them alone.
    """

    tokenizer_path: Path
    pairs: ImagePairs
    slots_path: Path | None = None
    tokenizers: Mapping[int, Path] = field(default_factory=dict)
    budgets: Mapping[int, Path] = field(default_factory=dict)
    backbones: Mapping[str, Path] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    @cached_property
    def tokenizer(self) -> TokenSource:
        """The tokenizer of most rows."""
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def places(self) -> Places:
        """Chooses its slots."""
        given = None if self.slots_path is None else read_slots(self.slots_path)
        return Places(self.tokenizer, self.pairs, given)

    def build(self, table: int, row: str) -> TokenJob | Skip:
        """What a row needs, or why it must be left out.

        Raises:
            DataError: A file that was given for it is missing, damaged or does not fit.
        """
        builders: dict[int, Callable[[str], TokenJob | Skip]] = {
            3: self._positions,
            4: self._tokens,
            6: self._interface,
            7: self._budget,
        }
        return builders[table](row)

    def _positions(self, row: str) -> TokenJob:
        slots, by = self.places.base
        if len(slots.positions) < 2:
            raise DataError(f"table 3 needs two slots, the slot file has {len(slots.positions)}")
        wanted = {"none": (), "sharpen": (0,), "smooth": (1,), "both": (0, 1)}[row]
        return TokenJob(self.tokenizer, keep(slots, wanted), by if wanted else "nobody")

    def _tokens(self, row: str) -> TokenJob | Skip:
        count = int(row)
        if count not in self.tokenizers:
            if self.tokenizer.num_tokens == count:
                return TokenJob(self.tokenizer, *self.places.base)
            return Skip(f"no tokenizer of {count} tokens: give --tokenizer-for {count}=PATH")
        tokenizer = load_tokenizer(self.tokenizers[count])
        if tokenizer.num_tokens != count:
            raise DataError(f"--tokenizer-for {count}={self.tokenizers[count]} has {tokenizer.num_tokens} tokens")
        given = self.places.given
        same = given is not None and given.tokenizer_id == tokenizer.tokenizer_id
        return TokenJob(tokenizer, *Places(tokenizer, self.pairs, given if same else None).base)

    def _interface(self, row: str) -> TokenJob | Skip:
        slots, by = self.places.base
        if row == "titok":
            return TokenJob(self.tokenizer, slots, by)
        source = self._stand_in(row)
        if isinstance(source, Skip):
            return source
        start = () if "schedule.edit_start" in self.fixed else ("schedule.edit_start=zero",)
        return TokenJob(source, borrow(slots, source), f"places of the tokenizer's ({by})", start)

    def _stand_in(self, row: str) -> TokenSource | Skip:
        K, C = self.tokenizer.num_tokens, self.tokenizer.token_dim
        if row == "none":
            return NoTokens(K, C, image_size=self.tokenizer.config.image_size)
        if row not in self.backbones:
            return Skip(f"no weights: give --backbone {row}=FILE, the weights of {BACKBONES[row].model}")
        return load_interface(row, self.backbones[row], num_tokens=K, token_dim=C)

    def _budget(self, row: str) -> TokenJob:
        count = int(row)
        if count not in self.budgets:
            return TokenJob(self.tokenizer, *self.places.budget(count))
        slots = read_slots(self.budgets[count])
        if len(slots.positions) != count:
            raise DataError(f"--slots-for {count}={self.budgets[count]} has {len(slots.positions)} slots")
        return TokenJob(self.tokenizer, *Places(self.tokenizer, self.pairs, slots).base)
