"""The body of a request that may be too large to hold, read as it arrives."""

from hashlib import sha256

from gateway.lab.simulator.multipart import Multipart, Part, boundary

__all__ = ["Upload"]


class Upload:
    """Counts and hashes the raw body and reads the form in it; a bad form is remembered, for the answer to tell."""

    def __init__(self, content_type: str) -> None:
        self.size = 0
        self.complaint: str | None = None
        self._hash = sha256()
        limit = boundary(content_type)
        self._form = Multipart(limit or b"")
        if limit is None:
            self.complaint = "content-type: multipart/form-data with a boundary is required"

    def __repr__(self) -> str:
        return f"<Upload {self.size} bytes {len(self._form.parts)} parts>"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the raw body so far."""
        return self._hash.digest()

    @property
    def parts(self) -> list[Part]:
        """The fields of the form, in order; the last one grows while the body arrives."""
        return self._form.parts

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self.size += len(data)
        self._hash.update(data)
        if self.complaint is None:
            try:
                self._form.feed(data)
            except ValueError as error:
                self.complaint = str(error)

    def close(self) -> None:
        """The body is complete."""
        if self.complaint is None:
            try:
                self._form.close()
            except ValueError as error:
                self.complaint = str(error)
