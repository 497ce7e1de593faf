"""Whether the Hugging Face hub can be asked for a model, decided within seconds.

For a file that is not in its cache `huggingface_hub` asks six times, with pauses of 23 seconds in
all, and waits up to 60 seconds for each answer.
"""

from __future__ import annotations

from threading import Thread

from kullback.models._loading_errors import explained, is_unreachable
from kullback.models.locate import ADAPTER_CONFIG, Location

__all__ = ["SECONDS", "check_reachable"]

SECONDS = 8.0
"""For an answer; name servers and each address of the hub have time limits of their own."""


def check_reachable(location: Location) -> None:
    """Raise `InvalidValueError` for a model of the hub that is not cached and cannot be asked for.

    Whatever the hub answers is left to the loader.
    """
    from huggingface_hub import hf_hub_url, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    # Imported from its module, because the package replaces its own attributes while it is used.
    from huggingface_hub.file_download import get_hf_file_metadata

    if location.path is not None:
        return
    with explained(location, "configuration"):
        files = ("config.json", ADAPTER_CONFIG)
        if any(isinstance(try_to_load_from_cache(location.name, file), str) for file in files):
            return
        if is_offline_mode():
            raise OfflineModeIsEnabled
        url = hf_hub_url(location.name, "config.json")
        errors: list[Exception] = []

        def ask() -> None:
            try:
                get_hf_file_metadata(url, timeout=SECONDS)
            # Of any class: it is handed over to the other thread.
            except Exception as error:
                errors.append(error)

        # It cannot be stopped, and must not keep the process from ending.
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(SECONDS)
        if thread.is_alive():
            raise TimeoutError
        if errors and is_unreachable(errors[0]):
            raise errors[0]
