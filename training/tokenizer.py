"""Train a local tokenizer of the T32 family: one stage, pixels to codes to pixels."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer import TOKENIZERS, Tokenizer, build_decoder
from training.config import ImageFolder, OptimConfig, Recipe, Strict, load_recipe
from training.data.images import DataError
from training.data.squares import SquareImages, random_resized_crop
from training.data.tone import ToneConfig, augment_tone
from training.losses import sobel, ssim_loss
from training.record import run_records
from training.run import cosine_lr
from training.tokenizer_files import load_tokenizer
from training.trainer import Trainer, add_run_arguments


class LossWeights(Strict):
    """Weights of the reconstruction terms."""

    l1: float
    multiscale_l1: float
    ssim: float
    sobel: float
    quantizer: float


class TokenizerRecipe(Recipe):
    """Everything that decides a tokenizer run.

    Attributes:
        cache_side: Side of the in-memory squares that crops are cut from.
        continuous_share: Share of the steps before quantization is switched on.
        reseed_every: Steps after which codes unused since the last time are re-seeded.
        reseed_until: Share of the steps after which no code is moved any more.
        decoder_share: Share of the steps at the start that train the decoder alone; for a run that starts from a
            finished tokenizer, whose decoder was thrown away.
        tokenizer_lr_ratio: Learning rate of the tokenizer relative to the decoder's. When the tokenizer joins, it
            warms up anew: at full rate a decoder of a few hundred steps would undo what it knows.
    """

    tokenizer: str
    steps: int
    batch: int
    cache_side: int
    crop_min_area: float
    mix_probability: float
    continuous_share: float
    reseed_every: int
    reseed_until: float
    decoder_share: float = 0.0
    tokenizer_lr_ratio: float = 1.0
    validate_every: int
    train: list[ImageFolder]
    val: list[ImageFolder]
    tone: ToneConfig
    loss: LossWeights
    optim: OptimConfig


class Autoencoder(nn.Module):
    """Tokenizer and decoder as one module, trained together; the decoder is thrown away afterwards."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(TOKENIZERS[name])
        self.decoder = build_decoder(TOKENIZERS[name])

    def forward(self, square: Tensor, *, quantize: bool) -> dict[str, Tensor]:
        """Reconstruct (N, 3, S, S); without ``quantize`` the tokens are only normalised."""
        tokens = self.tokenizer.tokens(square)
        if not quantize:
            codes = F.normalize(tokens.float(), dim=-1)
            return {"image": self.decoder(codes), "tokens": tokens, "loss": tokens.new_zeros(())}
        quantized = self.tokenizer.quantize(tokens)
        image = self.decoder(quantized.codes)
        return {"image": image, "tokens": tokens, "loss": quantized.loss, "indices": quantized.indices}


def reconstruction_loss(output: Tensor, target: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """The reconstruction terms, already weighted; both images (N, 1, S, S)."""
    pyramid = sum(
        (F.l1_loss(F.avg_pool2d(output, k), F.avg_pool2d(target, k)) for k in (2, 4)),
        F.l1_loss(output, target),
    )
    (ox, oy), (tx, ty) = sobel(output), sobel(target)
    return {
        "l1": weights.l1 * F.l1_loss(output, target),
        "multiscale": weights.multiscale_l1 * pyramid / 3,
        "ssim": weights.ssim * ssim_loss(output, target),
        "sobel": weights.sobel * (F.l1_loss(ox, tx) + F.l1_loss(oy, ty)),
    }


def warm_cosine_lr(step: int, steps: int, optim: OptimConfig, *, first_step: int) -> float:
    """Cosine over the whole run, with a linear warm-up from the step at which a group of weights joins."""
    whole = cosine_lr(step, steps, peak=optim.lr, warmup=0, min_ratio=optim.min_lr_ratio)
    return whole * min(1.0, max(0, step - first_step + 1) / max(1, optim.warmup_steps))


class TokenizerTrainer(Trainer):
    """Trains tokenizer and decoder together."""

    kind = "tokenizer"

    def __init__(self, recipe: TokenizerRecipe, data_root: Path, folder: Path, *, devices: int = 1) -> None:
        check_trainable(recipe.tokenizer)
        super().__init__(recipe, folder, devices=devices)
        self.recipe = recipe
        self.side = TOKENIZERS[recipe.tokenizer].image_size
        self.train = SquareImages(data_root, recipe.train, recipe.cache_side)
        self.val = SquareImages(data_root, recipe.val, self.side)
        self.module: Autoencoder = Autoencoder(recipe.tokenizer)
        optim = recipe.optim
        groups = [{"params": part.parameters()} for part in (self.module.decoder, self.module.tokenizer)]
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
        self.model, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.average: Autoencoder = deepcopy(self.module).requires_grad_(False)
        self.used = torch.zeros(TOKENIZERS[recipe.tokenizer].codebook_size, dtype=torch.bool)
        self.ready()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.steps

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.recipe.validate_every

    def data_counts(self) -> dict[str, int]:
        """Training images per folder."""
        return self.train.counts

    def extra_state(self) -> dict[str, Any]:
        """Architecture, and the codes used since the last re-seeding."""
        self._share_used()
        return {"name": self.recipe.tokenizer, "used": self.used}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Take back the codes used."""
        self.used = state["used"]

    def start_from(self, source: Path) -> None:
        """Begin with a finished tokenizer, from its run folder or a bundle; its record goes into the checkpoints.

        Raises:
            DataError: It has another architecture.
        """
        tokenizer = load_tokenizer(source)
        if tokenizer.config != self.module.tokenizer.config:
            wanted = self.recipe.tokenizer
            raise DataError(f"{source} holds a {tokenizer.config.name}, the recipe wants a {wanted}")
        for model in (self.module, self.average):
            model.tokenizer.load_state_dict(tokenizer.state_dict())
        self.earlier = run_records(source, "tokenizer")

    def batch(self) -> Tensor:
        """One augmented batch, (N, 1, S, S) on the device."""
        recipe = self.recipe
        rows = self.train.draw(recipe.batch)
        x = self.fabric.to_device(self.train.batch(rows, mix_probability=recipe.mix_probability))
        return augment_tone(random_resized_crop(x, self.side, recipe.crop_min_area), recipe.tone)

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms."""
        recipe, optim = self.recipe, self.recipe.optim
        joined = math.ceil(recipe.decoder_share * recipe.steps)
        for group, first, ratio in zip(
            self.optimizer.param_groups, (0, joined), (1.0, recipe.tokenizer_lr_ratio), strict=True
        ):
            group["lr"] = ratio * warm_cosine_lr(self.step, recipe.steps, optim, first_step=first)
        quantize = self.step >= recipe.continuous_share * recipe.steps
        self.module.tokenizer.requires_grad_(self.step >= joined)
        with self.clock.part("data"):
            x = self.batch()
        with self.clock.part("forward"):
            out = self.model(x.expand(-1, 3, -1, -1), quantize=quantize)
            terms = reconstruction_loss(out["image"].float().mean(1, keepdim=True), x, recipe.loss)
            terms["quantizer"] = recipe.loss.quantizer * out["loss"]
            loss = self.finite(torch.stack(list(terms.values())).sum())
        self.optimizer.zero_grad(set_to_none=True)
        with self.clock.part("backward"):
            self.fabric.backward(loss)
        with self.clock.part("step"):
            self.clip_gradients(self.module.parameters(), optim.clip)
            self.optimizer.step()
        self._count_codes(out, quantize)
        self.update_average(optim.ema)
        lr = torch.tensor(self.optimizer.param_groups[0]["lr"])
        return {"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}, "lr": lr}

    def _count_codes(self, out: dict[str, Tensor], quantize: bool) -> None:
        if not quantize:
            return
        if "indices" in out:
            self.used[out["indices"].unique().cpu()] = True
        due = self.step % self.recipe.reseed_every == 0
        last_chance = self.step < self.recipe.reseed_until * self.recipe.steps
        if due and last_chance:
            self._share_used()
            self._reseed(out["tokens"].detach().flatten(0, 1))
            self.used.zero_()

    def _reseed(self, tokens: Tensor) -> None:
        """Move the unused codes onto tokens, (M, C), of the first process: all must keep one codebook."""
        quantize = self.module.tokenizer.quantize
        quantize.reseed((~self.used).to(tokens.device), tokens)
        if self.fabric.world_size > 1:
            codes = quantize.embedding.weight.data
            codes.copy_(self.fabric.broadcast(codes.cpu()))
        self.average.tokenizer.quantize.load_state_dict(quantize.state_dict())

    def _share_used(self) -> None:
        """Count a code as used that any process used."""
        if self.fabric.world_size > 1:
            total = self.fabric.all_reduce(self.used.float().to(self.fabric.device), reduce_op="sum")
            assert isinstance(total, Tensor)
            self.used = total.cpu() > 0

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR per folder and code usage of the averaged model; images above their reconstructions."""
        quantize = self.step >= self.recipe.continuous_share * self.recipe.steps
        x = self.val.batch(torch.arange(len(self.val)))
        outs, codes = [], set()
        for chunk in self.fabric.to_device(x).split(16):
            out = self.average(chunk.expand(-1, 3, -1, -1), quantize=quantize)
            outs.append(out["image"].float().mean(1, keepdim=True).clamp(0, 1).cpu())
            codes |= set(out["indices"].flatten().tolist()) if quantize else set()
        y = torch.cat(outs)
        psnr = -10 * (y - x).square().mean(dim=(1, 2, 3)).clamp_min(1e-6).log10()
        values, start = {}, 0
        for name, count in self.val.counts.items():
            values[f"val/psnr/{name}"] = float(psnr[start : start + count].mean())
            start += count
        values["val/codes_used"] = float(len(codes))
        show = torch.linspace(0, len(x) - 1, 12).long()
        rows = torch.cat([torch.cat(list(x[show, 0]), dim=1), torch.cat(list(y[show, 0]), dim=1)])
        return values, {"val/reconstruction": rows}


def check_trainable(name: str) -> None:
    """Refuse what is no tokenizer of the local family.

    Raises:
        DataError: The message lists the names of the family.
    """
    local = sorted(known for known, config in TOKENIZERS.items() if not config.pixel_width)
    if name not in local:
        raise DataError(f"no tokenizer {name!r} can be trained here; known: {', '.join(local)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training tokenizer``."""
    add_run_arguments(parser, "t32-tiny6-128")
    parser.add_argument("--start-from", type=Path, help="run folder or bundle whose tokenizer to begin with")


def run(args: argparse.Namespace) -> None:
    """Train or go on training."""
    recipe = load_recipe(args.recipe, TokenizerRecipe, args.set)
    trainer = TokenizerTrainer(recipe, args.data, args.out, devices=args.devices)
    if args.start_from is not None:
        trainer.start_from(args.start_from)
    trainer.resume()
    trainer.fit()
