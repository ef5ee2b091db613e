"""Data: from text to shards of ids and back.

`shards` writes and reads them, `prepare` makes them from files, `fetch` downloads the published ones, `stats` describes
them, `corpus` is the text that needs no download.
"""

from bytegolf.data.shards import Counts, ShardWriter, read_documents, read_ids, read_text, write_shards

__all__ = ["Counts", "ShardWriter", "read_documents", "read_ids", "read_text", "write_shards"]
