"""Routes of the contract that do not exist yet: they answer 501 and say which they are."""

from luma_lab.errors import NotSupported
from luma_lab.service.base import BaseHandler
from luma_lab.service.refusals import MethodNotAllowed

_COLLECTION = r"/v1/vector/[^/]+"
# pattern, what it is called, methods
ROUTES = ((_COLLECTION + r"/compact", "compaction", ("POST",)),)


class UnbuiltHandler(BaseHandler):
    """Refuses every method of a route that is not built yet.

    Parameters
    ----------
    name : str
    methods : tuple of str
    """

    def initialize(self, name, methods):
        self._name = name
        self._methods = methods

    def prepare(self):
        super().prepare()
        method = self.request.method
        if method == "OPTIONS":
            return
        if method not in self.allowed_methods():
            raise MethodNotAllowed(method, self.allowed_methods())
        raise NotSupported(f"{self._name} ({self.request.path}) is not supported yet")

    def allowed_methods(self):
        head = ("HEAD",) if "GET" in self._methods else ()
        return [*self._methods, *head, "OPTIONS"]

    def get(self, *args):
        """Never reached: `prepare` refuses."""

    post = put = delete = patch = get


routes = [
    (pattern, UnbuiltHandler, {"name": name, "methods": methods})
    for pattern, name, methods in ROUTES
]
