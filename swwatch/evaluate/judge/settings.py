"""What can be set for the judge."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swwatch.config import check_least, setting
from swwatch.errors import UserError
from swwatch.paths import CONFIGS

CONFIG = CONFIGS / "judge.yaml"
OURS = (
    "model",
    "messages",
    "temperature",
    "max_tokens",
    "n",
    "stream",
)  # fields of a request that --extra may not set


@dataclass(frozen=True)
class JudgeSettings:
    """The endpoint, how hard to press it, and what to ask."""

    base_url: str = setting(
        "https://api.openai.com/v1", "what precedes /chat/completions", env="SWWATCH_JUDGE_BASE_URL"
    )
    model: str | None = setting(None, "name of the judge at the endpoint (needed)", env="SWWATCH_JUDGE_MODEL")
    key_env: str | None = setting(
        "OPENAI_API_KEY", "NAME of the environment variable that holds the key; none for a server that wants no key"
    )
    criterion: str = setting("fluency", "what --against compares by, or dialogues are graded by: of the rubric")
    rubric: Path = setting(CONFIGS / "rubric.yaml", "the words of the task")
    cache: Path | None = setting(
        None, "folder of the answers (default: judge_cache beside the run)", env="SWWATCH_JUDGE_CACHE"
    )
    concurrency: int = setting(8, "questions under way at once", least=1)
    requests_per_minute: float | None = setting(None, "limit of this process", above=0)
    timeout_s: float = setting(60.0, "seconds without a sign of life after which a try has failed", above=0)
    retries: int = setting(6, "further tries after timeouts, 429, 5xx and broken connections", least=0)
    reasks: int = setting(2, "further questions after a reply that is no verdict", least=0)
    temperature: float | None = setting(0.0, "of a reply; none for the model's own, where it takes no other", least=0)
    max_tokens: int | None = setting(300, "limit of a reply; none for the server's own", least=1)
    extra: str = setting("{}", 'more fields of the request as JSON, such as {"seed": 1}')
    input_price: float | None = setting(None, "per million prompt tokens, to show the cost", least=0)
    output_price: float | None = setting(None, "per million completion tokens", least=0)

    def __post_init__(self):
        if self.key_name and not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_name):
            # what stands there may be the key itself: it is not repeated
            raise UserError(
                "key_env wants the NAME of an environment variable in capitals, such as OPENAI_API_KEY, not a key"
            )
        check_least(self)
        if (self.input_price is None) != (self.output_price is None):
            raise UserError("give both --input-price and --output-price, or neither")

    @property
    def key_name(self) -> str | None:
        """The environment variable of the key; None where the server wants no key."""
        return None if self.key_env is None or self.key_env.lower() in ("none", "null") else self.key_env

    def request_fields(self) -> dict:
        """Every field of a request but its messages.

        Raises:
            UserError: no model, or an --extra that is not a JSON object of further fields.
        """
        if not self.model:
            raise UserError("which judge? Give --model (or SWWATCH_JUDGE_MODEL), a name that the endpoint knows")
        try:
            extra = json.loads(self.extra)
        except ValueError as error:
            raise UserError(f"--extra is not JSON: {error}") from error
        if not isinstance(extra, dict):
            raise UserError('--extra wants a JSON object, such as {"seed": 1}')
        if taken := sorted(set(OURS) & set(extra)):
            raise UserError(f"--extra may not set {', '.join(taken)}: the judge sets it itself")
        options = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, **{name: value for name, value in options.items() if value is not None}, **extra}

    def key(self, env: Mapping[str, str]) -> str | None:
        """The key from the environment.

        Raises:
            UserError: its variable is not set.
        """
        if self.key_name is None:
            return None
        if not env.get(self.key_name, "").strip():
            raise UserError(
                f"the environment variable {self.key_name} is not set: put the endpoint's key there, name another "
                "variable by --key-env, or give --key-env none for a server that wants no key"
            )
        return env[self.key_name]
