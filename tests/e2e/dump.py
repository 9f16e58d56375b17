"""Everything a store holds, as bytes: taken from the store itself, past the sidecar."""

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

RAW = CodecOptions(document_class=RawBSONDocument)
SHOWN = CodecOptions(unicode_decode_error_handler="backslashreplace")
OWN = {"config", "local"}


def dump(client, wanted=lambda database, collection: True) -> dict[str, list[bytes]]:
    """namespace -> sorted raw documents; namespaces without documents are left out, as are views and what is not `wanted`."""
    found = {}
    for name in client.list_database_names():
        if name in OWN or not name:
            continue
        database = client[name]
        for info in database.list_collections():
            collection = info["name"]
            if info["type"] != "collection" or collection.startswith("system.") or not wanted(name, collection):
                continue
            raw = [bytes(d.raw) for d in database.get_collection(collection, codec_options=RAW).find()]
            if raw:
                found[f"{name}.{collection}"] = sorted(raw)
    return found


def difference(folded: dict[str, list[bytes]], dumped: dict[str, list[bytes]]) -> str:
    """The first disagreement in words; empty when there is none."""
    from bson import decode

    for ns in sorted(set(folded) | set(dumped)):
        ours, theirs = folded.get(ns, []), dumped.get(ns, [])
        if ours == theirs:
            continue
        only_ours, only_theirs = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        lines = [f"{ns}: {len(ours)} folded from the log, {len(theirs)} in the store"]
        lines += [f"  only in the log:   {str(decode(d, SHOWN))[:400]}" for d in only_ours[:3]]
        lines += [f"  only in the store: {str(decode(d, SHOWN))[:400]}" for d in only_theirs[:3]]
        if not only_ours and not only_theirs:
            lines.append("  the same documents, but some twice")
        return "\n".join(lines)
    return ""
