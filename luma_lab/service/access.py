"""What a key may do: its role, and the collections and key prefixes it is confined to."""

from dataclasses import dataclass, field

from luma_lab.service.operation import ROLES
from luma_lab.service.refusals import Forbidden


@dataclass(frozen=True)
class Access:
    """The rights of one request.

    Attributes
    ----------
    key_id : str or None
        The id of the key; None where nobody is asked for one.
    role : {"read", "write", "admin"}
    collections, key_prefixes : tuple of str, or None
        Scopes: names, those that end in ``*`` are prefixes. Both None: no scopes. With one of
        them set the key is confined, and the other, left out, allows nothing.
    fingerprint : bytes or None
        Of the key's secret; another one after the key was rotated.
    """

    key_id: str | None
    role: str
    collections: tuple[str, ...] | None = None
    key_prefixes: tuple[str, ...] | None = None
    fingerprint: bytes | None = field(default=None, repr=False)

    @property
    def is_scoped(self):
        """Whether the key is confined to some collections or keys."""
        return self.collections is not None or self.key_prefixes is not None

    def check_role(self, role):
        """Raise `Forbidden` unless the key has `role` or a higher one."""
        if ROLES.index(self.role) < ROLES.index(role):
            raise Forbidden(f"this needs a key with the role {role!r}; yours has {self.role!r}")

    def sees_collection(self, name):
        """Return whether a collection (of vectors or documents) is inside the scopes."""
        if not self.is_scoped:
            return True
        return any(
            name.startswith(scope[:-1]) if scope.endswith("*") else name == scope
            for scope in self.collections or ()
        )

    def sees_key(self, key):
        """Return whether a state key is inside the scopes."""
        return not self.is_scoped or key.startswith(self.key_prefixes or ())

    def sees_event(self, event):
        """Return whether an event (with ``.type .key .collection``) is inside the scopes."""
        if not self.is_scoped or event.type == "gap":
            return True
        if event.collection is not None:
            return self.sees_collection(event.collection)
        return event.key is not None and self.sees_key(event.key)

    def check_collection(self, name):
        """Raise `Forbidden` for a collection outside the scopes."""
        if not self.sees_collection(name):
            raise Forbidden(f"this key may not touch the collection {name!r}")

    def check_key(self, key):
        """Raise `Forbidden` for a state key outside the scopes."""
        if not self.sees_key(key):
            raise Forbidden(f"this key may not touch the key {key!r}")

    def check_unscoped(self, what):
        """Raise `Forbidden` when the key is confined: `what` can't be confined."""
        if self.is_scoped:
            raise Forbidden(f"a key with scopes may not use {what}")


ANYONE = Access(None, "admin")
NOBODY = Access(None, "read", (), ())  # on the paths that ask for no key
