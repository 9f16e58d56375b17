"""Two members of a set that is none: each a proxy before one and the same store, with its own word on who is primary.

Each member rewrites what `hello` says of itself (role, term, process, commit point) and refuses writes while it is not primary, so
that a fail-over, and a rollback, happen exactly when a test says so.
"""

import socket
import struct
import threading

import bson
from bson import ObjectId
from bson.son import SON
from shim import PLAIN, command_of, packed, read_message
from wire import OP_MSG, OP_REPLY

HELLO = {"hello", "ismaster", "isMaster"}
WRITES = {"insert", "update", "delete", "findAndModify", "findandmodify", "bulkWrite", "drop", "create", "renameCollection", "dropDatabase"}


class Member:
    """One member."""

    def __init__(self, target: str, primary: bool, term: int):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.process = ObjectId()
        self.primary, self.term, self.commit = primary, term, None
        self.refused = 0
        self.rbid = 1
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, primary: bool, term: int) -> None:
        """An election has ended."""
        self.primary, self.term = primary, term

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One request after the other; the sidecar sends several at once, and their replies keep their order."""
        try:
            with client, socket.create_connection(self.target) as server:
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    self._turn(client, server)
        except (OSError, struct.error):
            pass

    def _turn(self, client: socket.socket, server: socket.socket) -> None:
        message = read_message(client)
        number = struct.unpack_from("<i", message, 4)[0]
        name, _ = command_of(message)
        if name in WRITES and not self.primary:
            self.refused += 1
            client.sendall(packed(SON(ok=0.0, errmsg="not primary", code=10107, codeName="NotWritablePrimary"), number))
            return
        if name == "replSetGetRBID":  # the store has none
            client.sendall(packed(SON(rbid=self.rbid, ok=1.0), number))
            return
        server.sendall(message)
        reply = read_message(server)
        client.sendall(self._told(reply) if name in HELLO else reply)

    def _told(self, reply: bytes) -> bytes:
        """What hello says, in this member's words."""
        opcode = struct.unpack_from("<i", reply, 12)[0]
        at = {OP_MSG: 21, OP_REPLY: 36}[opcode]
        hello = bson.decode(reply[at:], PLAIN)
        hello.update(isWritablePrimary=self.primary, secondary=not self.primary)
        hello["topologyVersion"] = SON(processId=self.process, counter=bson.Int64(self.term))
        if "ismaster" in hello:
            hello["ismaster"] = self.primary
        hello.pop("electionId", None)
        if self.primary:
            hello["electionId"] = ObjectId(f"7fffffff{self.term:016x}")
        last = hello["lastWrite"]
        for field in ("opTime", "majorityOpTime"):
            last[field]["t"] = bson.Int64(self.term)
        if self.commit is not None:
            last["majorityOpTime"] = self.commit
        body = reply[16:at] + bson.encode(hello, codec_options=PLAIN)
        return struct.pack("<i", 16 + len(body)) + reply[4:16] + body

    def hold_commit(self) -> None:
        """From now on the majority gets nothing: the commit point stands still."""
        from pymongo import MongoClient

        with MongoClient(*self.target, directConnection=True) as client:
            last = client.admin.command("hello")["lastWrite"]["opTime"]
        self.commit = SON(ts=last["ts"], t=bson.Int64(self.term))

    def close(self) -> None:
        self.listener.close()
