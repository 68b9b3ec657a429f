"""What may stand in the tokenizer's place before a fusion network, and what the network needs of it."""

from models.interface.no_tokens import NoTokens
from models.interface.patch_features import PatchFeatures
from models.interface.protocol import TokenSource

__all__ = ["NoTokens", "PatchFeatures", "TokenSource"]
