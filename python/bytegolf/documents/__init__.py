"""Documents: what a file of text, of JSON lines or of Parquet holds, packed or not.

`signs` says what a file is by its first bytes, `packed` unpacks it as a stream, `read` yields its documents. `data prepare`,
`eval` and `surprise` all read files this way.
"""

from bytegolf.documents.read import (
    AS_NAMED,
    FORMATS,
    Document,
    Reading,
    documents_of_file,
    documents_of_stream,
    kind_of,
)

__all__ = ["AS_NAMED", "FORMATS", "Document", "Reading", "documents_of_file", "documents_of_stream", "kind_of"]
