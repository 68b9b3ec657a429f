"""TiTok: 1D image tokenizers, the published sizes and the small local T32 family."""

from models.tokenizer.config import TOKENIZERS, TokenizerConfig
from models.tokenizer.decoder import TokenDecoder
from models.tokenizer.official import TiTok
from models.tokenizer.tokenizer import Tokenizer

__all__ = ["TOKENIZERS", "TiTok", "TokenDecoder", "Tokenizer", "TokenizerConfig"]
