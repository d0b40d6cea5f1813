"""botocore's sessions: where the credentials of a client come from, and what it may know of this process.

That of destinations knows nothing but botocore's own defaults: no variable of the environment, no config or
credentials file, no instance metadata. That of the operator's queues has botocore's chain: environment, profile,
web identity, container, instance. It asks and renews in the thread of the call that needs them.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

import msgspec


class Session(msgspec.Struct, frozen=True):
    """`building` is to be held while a client is built: botocore's session is not made for several threads."""

    made: Any
    building: Any
    chain: bool = False

    def secrets(self) -> tuple[str, ...]:
        """Of the chain, as last used; what must be in no text that we hand on. Called in the thread of a call."""
        if not self.chain:
            return ()
        try:
            found = self.made.get_credentials()
            kept = None if found is None else found.get_frozen_credentials()
        except Exception:  # noqa: BLE001 -- whatever the chain raises: there are none
            return ()
        return (
            () if kept is None else tuple(part for part in (kept.secret_key, kept.token, kept.access_key) if part)
        )


@functools.cache
def of_destinations() -> Session:
    """The one of all destinations, by which their clients share the descriptions of the services."""
    from botocore import configprovider, credentials, tokens

    made = _quiet()
    defaults = {name: default for name, (_, _, default, _) in made.SESSION_VARIABLES.items()}
    defaults |= {"config_file": "", "credentials_file": ""}  # no file has that name
    constants = {name: configprovider.ConstantProvider(value) for name, value in defaults.items()}
    made.register_component("config_store", configprovider.ConfigValueStore(constants))
    made.register_component("credential_provider", credentials.CredentialResolver([]))
    made.register_component("token_provider", tokens.TokenProviderChain([]))
    return Session(made, threading.Lock())


def of_this_process() -> Session:
    """A new one with the chain. Its lock is its own: asking the chain may take seconds."""
    return Session(_quiet(), threading.Lock(), chain=True)


def _quiet() -> Any:
    """A session that imports, logs and sends nothing that the environment names."""
    from botocore import handlers, loaders, session

    for name in ("botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)  # below that they name hosts, and tell whole requests
    made = session.Session()
    builtin = loaders.Loader([loaders.Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    made.register_component("data_loader", builtin)  # no descriptions from ~/.aws
    made._register_client_plugins = lambda _: None  # noqa: SLF001 -- modules that the environment names
    made.unregister("before-call", handlers.add_recursion_detection_header)  # which is of the environment
    # S3 would be asked whether it wants the body, before each of our small ones: a round trip, and a second lost
    # where a service of the same protocol does not answer that.
    made.unregister("before-call.s3", handlers.add_expect_header)
    return made
