"""The platform's invoke API: models are loaded once, then `POST /invoke` answers the case that lies in /input now."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from mmpl.errors import one_line

PORT = 4743

log = logging.getLogger(__name__)

Answer = Callable[[], None]


def make_app(load: Callable[[], Answer], fail: Callable[[], None]) -> Any:
    """Make the server's application, which starts to load at once.

    `GET /health` answers 503 until the models are there and 200 from then on; `POST /invoke` answers 201 once the case
    is answered, 409 while another is being answered, 503 before the models are there, and 500 for a case that cannot
    be answered. No other route exists, and bodies are not read.

    Args:
        load: Function that loads the models; what it returns answers one case.
        fail: Function called if loading fails, after that was logged.
    """
    from fastapi import FastAPI, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    ready, busy = threading.Event(), threading.Lock()
    answers: list[Answer] = []

    def start() -> None:
        try:
            answers.append(load())
        except Exception as error:
            log.error("error: %s", one_line(error))
            fail()
        else:
            ready.set()

    threading.Thread(target=start, daemon=True).start()

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if ready.is_set() else 503)

    @app.post("/invoke")
    def invoke() -> Response:
        if not ready.is_set():
            return Response("the models are not loaded yet", 503)
        if not busy.acquire(blocking=False):
            return Response("another case is being answered", 409)
        try:
            answers[0]()
        except Exception as error:
            log.error("error: %s", one_line(error))
            return Response(one_line(error), 500)
        finally:
            busy.release()
        return Response(status_code=201)

    return app


def serve(load: Callable[[], Answer]) -> None:
    """Serve until the process is asked to end; models that cannot be loaded end it with exit code 1."""
    import uvicorn

    failed = threading.Event()
    app = make_app(load, failed.set)
    server = uvicorn.Server(uvicorn.Config(app, host="0.0.0.0", port=PORT, log_config=None, access_log=False))

    def stop_if_failed() -> None:
        failed.wait()
        server.should_exit = True

    threading.Thread(target=stop_if_failed, daemon=True).start()
    server.run()
    if failed.is_set():
        raise SystemExit(1)
