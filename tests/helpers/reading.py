"""What comes of a file of some bytes: its rows, or the sentence that it is refused with."""

import pandas as pd
import pytest
from ratings_files import assert_sentence

from fedem_jax.data.readers import read
from fedem_jax.errors import UserError


def told(path, content: bytes, **named) -> str:
    """The sentence that a file is refused with."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path, **named)
    sentence = str(caught.value).replace(str(path.parent), "")
    assert_sentence(sentence)
    return sentence


def frame(path, content: bytes, **named) -> pd.DataFrame:
    """The rows of a file; those of a file without times are in the order of the file."""
    path.write_bytes(content)
    try:
        return read(path, **named).frame
    except UserError as error:
        if "has no times" not in str(error):
            raise
        return read(path, **named, order="file").frame
