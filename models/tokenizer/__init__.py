"""TiTok: 1D image tokenizers, the published sizes and the small local T32 family."""

from models.tokenizer.config import TOKENIZERS, TokenizerConfig
from models.tokenizer.conv_decoder import ConvDecoder, build_decoder
from models.tokenizer.decoder import TokenDecoder
from models.tokenizer.official import TiTok
from models.tokenizer.tokenizer import Tokenizer

__all__ = ["TOKENIZERS", "ConvDecoder", "TiTok", "TokenDecoder", "Tokenizer", "TokenizerConfig", "build_decoder"]
