"""Rows as people have them: read from files and hub datasets, in the layouts in use, checked before anything is done.

row        what a row is
readers    from files to records; arrow: from tables whose classes have names; records: what they are
layouts    from records to drafts, a function for each layout; chats: those with turns
recognise  which layout it is, and which fields are read; fields: their names
reading    from drafts to rows, and what cannot be used; answers: labels and texts
checks     what was read, and what may be trained and measured on
"""

from poison2poison.data.chats import Messages, as_row
from poison2poison.data.checks import as_records, check_apart, check_trainable, summary
from poison2poison.data.layouts import LAYOUTS
from poison2poison.data.reading import DataConfig, read_rows, rows_of
from poison2poison.data.row import FINGERPRINT, Row, Rows, Turn, all_text, hash_rows

__all__ = [
    "FINGERPRINT",
    "LAYOUTS",
    "DataConfig",
    "Messages",
    "Row",
    "Rows",
    "Turn",
    "all_text",
    "as_records",
    "as_row",
    "check_apart",
    "check_trainable",
    "hash_rows",
    "read_rows",
    "rows_of",
    "summary",
]
