"""Loads what a method needs, once, and runs it at any budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.interface import TokenSource
from models.ste import SlotSpec
from models.token_fusion import TokenFusionModel
from training.config import ImageFolder, PairFolder
from training.data.images import DataError
from training.data.squares import SquareImages
from training.probing.ablation import find_fixed, find_random
from training.probing.agreement import compare
from training.probing.edited import EditedFusion, read_pairs
from training.probing.exhaustive import Check, check_all
from training.probing.gumbel import Selection, search
from training.probing.learned import find_exhaustive, find_gumbel
from training.probing.network import load_model
from training.probing.settings import CheckSettings, Modality, PairSettings, SearchSettings
from training.probing.slots import MAX_SLOTS, Found, make_spec
from training.probing.supervised import Shifts, find_supervised, measure_shifts
from training.tokenizer_files import load_tokenizer

Method = Literal["supervised", "gumbel", "exhaustive", "random", "fixed"]


@dataclass(frozen=True)
class Options:
    """What to probe and how.

    Attributes:
        method: How slots are chosen.
        tokenizer: Its run folder, a bundle, or official weights.
        run: Run folder or bundle of the fusion network whose tokens are probed.
        data: Data root.
        pair_folder: Folders of the probing pairs.
        folders: Folders of single images for the supervised method.
        amount: Strength of the sharpened copies.
        sigma: Blur of the smoothed copies.
        seed: First seed of a search; seed of a random choice.
        positions: Of the fixed method.
        channels: Of the fixed method.
        modalities: Whose tokens are edited; the slot file is about the first.
        pairs: Probing pairs.
        search: Gumbel-Softmax search.
        check: Score and exhaustive check.
    """

    method: Method
    tokenizer: Path | None
    run: Path | None
    data: Path | None
    pair_folder: PairFolder
    folders: tuple[str, ...]
    amount: float
    sigma: float
    seed: int
    positions: tuple[int, ...]
    channels: tuple[int, ...]
    modalities: tuple[Modality, ...]
    pairs: PairSettings
    search: SearchSettings
    check: CheckSettings


class Prober:
    """One probing job.

    Raises:
        DataError: An option that the method needs is missing.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        looks = options.method in {"gumbel", "exhaustive"}
        if looks and options.run is None:
            raise DataError(f"--method {options.method} looks at fused images: give a trained network (--run)")
        if options.tokenizer is None and options.run is None:
            raise DataError("give the tokenizer (--tokenizer), or a bundle that holds one (--run)")
        if options.data is None and (options.run is not None or options.method == "supervised"):
            raise DataError(f"--method {options.method} needs images: give the data root (--data)")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.selections: dict[int, Mapping[Modality, list[Selection]]] = {}

    @cached_property
    def model(self) -> TokenFusionModel | None:
        """The network, if there is one."""
        options = self.options
        return None if options.run is None else load_model(options.run, options.tokenizer).to(self.device)

    @cached_property
    def tokenizer(self) -> TokenSource:
        """The tokenizer that the slots belong to."""
        if self.model is not None:
            return self.model.tokenizer
        assert self.options.tokenizer is not None
        return load_tokenizer(self.options.tokenizer).to(self.device)

    @cached_property
    def subject(self) -> EditedFusion | None:
        """The network with its probing pairs, if there is one."""
        if self.model is None:
            return None
        assert self.options.data is not None
        images = read_pairs(self.options.data, self.options.pair_folder, self.options.pairs)
        a, b = (x.to(self.device) for x in images)
        return EditedFusion(self.model, a, b, self.options.check.score_weights, self.options.modalities[0])

    @cached_property
    def check(self) -> Check:
        """The exhaustive check."""
        assert self.subject is not None
        return check_all(self.subject, self.options.check)

    @cached_property
    def shifts(self) -> Shifts | None:
        """How tokens answer to known changes, if there are images."""
        if self.options.data is None:
            return None
        return measure_shifts(self.tokenizer, self._images(), amount=self.options.amount, sigma=self.options.sigma)

    def _images(self) -> Tensor:
        side = self.tokenizer.config.image_size
        if self.options.method in {"gumbel", "exhaustive"} and self.subject is not None:
            images = torch.cat([self.subject.a, self.subject.b])
            return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        assert self.options.data is not None
        squares = SquareImages(self.options.data, [ImageFolder(path=f) for f in self.options.folders], side)
        return squares.batch(torch.arange(len(squares))).to(self.device)

    def find(self, budget: int) -> Found:
        """Choose slots by the method.

        Raises:
            DataError: The method does not find so many.
        """
        limit = min(MAX_SLOTS, self.tokenizer.num_tokens)
        if not 0 <= budget <= limit:
            raise DataError(f"a budget is 0 to {limit} slots, not {budget}")
        options, size = self.options, (self.tokenizer.num_tokens, self.tokenizer.token_dim)
        if budget == 0:
            return Found(options.method, (), named=True)
        if options.method == "random":
            return find_random(*size, budget, options.seed, self.shifts)
        if options.method == "fixed":
            if len(options.positions) < budget:
                raise DataError(f"{budget} fixed slots need {budget} positions, e.g. --positions 12 18")
            return find_fixed(*size, options.positions[:budget], options.channels, options.seed, self.shifts)
        if options.method == "supervised":
            assert self.shifts is not None
            return find_supervised(self.shifts, budget)
        assert self.subject is not None
        if options.method == "exhaustive":
            return find_exhaustive(self.subject, self.check, budget, options.check)
        self.selections[budget] = self._search(self.subject, budget)
        return find_gumbel(self.selections[budget], self.check)

    def _search(self, subject: EditedFusion, budget: int) -> Mapping[Modality, list[Selection]]:
        first, settings = self.options.seed, self.options.search
        return {
            modality: [
                search(subject.editing(modality), budget, settings, seed)
                for seed in range(first, first + settings.seeds)
            ]
            for modality in self.options.modalities
        }

    def probe(self, budget: int) -> SlotSpec:
        """The slot file's content at a budget."""
        found, options = self.find(budget), self.options
        extra: dict[str, Any] = {"seed": options.seed, "settings": self._settings()}
        if found.slots and options.method in {"gumbel", "exhaustive"}:
            extra["agreement"] = compare([s.position for s in found.slots], self._others(budget), self.check)
        return make_spec(found, self.tokenizer, self.subject, options.check, extra)

    def _others(self, budget: int) -> dict[str, list[int]]:
        """What the other methods choose, for comparison."""
        assert self.shifts is not None
        supervised = find_supervised(self.shifts, min(budget, 2)).slots
        others = {"supervised": [slot.position for slot in supervised]}
        if self.options.method == "gumbel":
            return {"exhaustive": self.check.ranked()[:budget], **others}
        return others

    def _settings(self) -> dict[str, Any]:
        """The numbers that the method used."""
        options = self.options
        settings: dict[str, Any] = {}
        if options.run is not None:
            settings |= {**options.pairs.model_dump(), **options.check.model_dump(exclude={"chunk"})}
            settings["modality"] = list(options.modalities)
        if options.method == "gumbel":
            settings |= options.search.model_dump()
        if options.data is not None:
            settings |= {"amount": options.amount, "sigma": options.sigma}
        return settings
