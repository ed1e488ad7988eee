"""Rows of the route table: health, metrics, the description, keys, jobs, the workbench."""

from route_cases import FORM, MISSING, Route, bad, good, shape

INSTALL = "pip install"
OPEN = (
    Route("GET", "/v1/health", None, confined="open", cases=(good(key=None),)),
    Route("GET", "/docs", None, confined="open", cases=(good(key=None),)),
    Route("GET", "/docs/openapi.json", None, confined="open", cases=(good(key=None),)),
    Route("GET", "/docs/openapi.yaml", None, confined="open", cases=(good(key=None),)),
    Route(
        "GET", "/openapi.yaml", None, confined="open", operation=False, cases=(good(key=None),)
    ),
    Route(
        "GET", "/docs/static/docs.js", None, confined="open", operation=False,
        cases=(
            good(key=None),
            bad("there is none", 404, "not_found", "no such file", url="/docs/static/x", key=None),
        ),
    ),
    # Without pages; with them the tests of the workbench ask.
    *(
        Route(
            "GET", path, None, confined="open", operation=False,
            cases=(bad("without a workbench", 501, "not_supported", INSTALL, key=key),),
        )
        for path, key in (
            ("/", None), ("/index.html", None), ("/lab", None), ("/lab/", "admin"),
            ("/lab/login", None),
        )
    ),
    Route(
        "POST", "/lab/login", None, confined="open", operation=False,
        cases=(bad("without a workbench", 501, "not_supported", INSTALL, key=None,
                   content=b"key=x", headers={"Content-Type": FORM}),),
    ),
)  # fmt: skip
METRICS = (Route("GET", "/v1/metrics", "read", cases=(good(),)),)
KEYS = (
    Route("GET", "/v1/auth/keys", "admin", cases=(good(),)),
    Route(
        "POST", "/v1/auth/keys", "admin",
        fields={"name": "text*", "role": "word", "permissions": "object"},
        cases=(
            good(json={"name": "a"}),
            good("for all", json={"name": "a", "role": "user", "permissions": {"allow": "*"}}),
            good("confined", json={"name": "a", "role": "read",
                                   "permissions": {"collections": ["a*"], "key_prefixes": []}}),
            bad("an empty name", 400, says="name", json={"name": ""}),
            bad("a name too long", 400, says="name", json={"name": "x" * 129}),
            bad("a name that can't be printed", 400, says="name", json={"name": "a\nb"}),
            bad("a misspelt scope", 400, says="colections",
                json={"name": "a", "permissions": {"colections": ["a"]}}),
            bad("a scope that is no list", 400, says="collections",
                json={"name": "a", "permissions": {"collections": "a"}}),
            bad("a scope of no text", 400, says="key_prefixes",
                json={"name": "a", "permissions": {"key_prefixes": [5]}}),
            bad("an empty scope", 400, says="key_prefixes",
                json={"name": "a", "permissions": {"key_prefixes": [""]}}),
            bad("too many scopes", 400, says="at most",
                json={"name": "a", "permissions": {"collections": ["a"] * 101}}),
            bad("a confined admin", 400, says="admin",
                json={"name": "a", "role": "admin", "permissions": {"collections": ["a"]}}),
            shape("a role in capitals", "role", json={"name": "a", "role": "Admin"}),
        ),
    ),
    Route(
        "DELETE", "/v1/auth/keys/{id}", "admin", params={"id": "KEY"},
        cases=(
            good(status=204, answers="empty"),
            bad("there is none", 404, "not_found", "key id not found",
                url=f"/v1/auth/keys/{MISSING}"),
            bad("the configured one", 409, "conflict", "API_KEY", url="/v1/auth/keys/configured"),
        ),
    ),
    Route(
        "POST", "/v1/auth/keys/{id}/rotate", "admin", params={"id": "KEY"},
        cases=(
            good(),
            bad("there is none", 404, "not_found", "key id not found",
                url=f"/v1/auth/keys/{MISSING}/rotate"),
            bad("the configured one", 409, "conflict", "API_KEY",
                url="/v1/auth/keys/configured/rotate"),
        ),
    ),
)  # fmt: skip
JOBS = (
    Route(
        "GET", "/v1/jobs", "read", confined="open",
        cases=(
            good(),
            *(good(state, url=f"?state={state}")
              for state in ("queued", "running", "done", "failed", "cancelled", "interrupted")),
            bad("an unknown state", 400, says="state", url="?state=odd"),
            bad("a state that is no UTF-8", 400, says="state", url="?state=%FF"),
        ),
    ),
    Route(
        "GET", "/v1/jobs/{id}", "read", confined="open", params={"id": "JOB"},
        cases=(
            good(),
            bad("there is none", 404, "not_found", "job not found", url=f"/v1/jobs/{MISSING}"),
            bad("outside the scopes of the key", 404, "not_found", "job not found",
                key="confined"),
        ),
    ),
    Route(
        "DELETE", "/v1/jobs/{id}", "write", confined="open", params={"id": "RUNNING"},
        cases=(
            good(events=None),
            bad("has ended", 409, "conflict", "already done", url="/v1/jobs/JOB"),
            bad("there is none", 404, "not_found", "job not found", url=f"/v1/jobs/{MISSING}"),
            bad("outside the scopes of the key", 404, "not_found", "job not found",
                url="/v1/jobs/JOB", key="confined"),
        ),
    ),
)  # fmt: skip
ROUTES = OPEN + METRICS + KEYS + JOBS
