"""A response of OpenAI's realtime form: what is being said, from the first of its events to the last."""

import secrets
from collections.abc import Awaitable, Callable


class Response:
    """Tells its events one by one."""

    def __init__(self, tell: Callable[..., Awaitable[None]]):
        """Args: tell: (type of an event, its fields)."""
        self._tell, self._text, self._num_tokens = tell, "", 0
        self._id, self._item = f"resp_{secrets.token_hex(12)}", f"item_{secrets.token_hex(12)}"
        self._place = {"response_id": self._id, "item_id": self._item, "output_index": 0, "content_index": 0}

    async def begin(self) -> None:
        """Nothing is said yet."""
        await self._tell("response.created", response=self._about("in_progress"))
        await self._tell_output("response.output_item.added", "in_progress")
        await self._tell("response.content_part.added", **self._place, part={"type": "text", "text": ""})

    async def say(self, text: str, seen: dict) -> None:
        """The text of a token. Args: seen: what it could see, and when."""
        self._text += text
        self._num_tokens += 1
        await self._tell("response.output_text.delta", **self._place, delta=text, swwatch=seen)

    async def end(self, status: str, watched: int) -> None:
        """All is said.

        Args:
            status: completed, cancelled, failed or incomplete.
            watched: tokens of video that the session has watched so far.
        """
        said, text = self._num_tokens, self._text
        usage = {"input_tokens": watched, "output_tokens": said, "total_tokens": watched + said}
        usage |= {"input_token_details": {"image_tokens": watched}, "output_token_details": {"text_tokens": said}}
        await self._tell("response.output_text.done", **self._place, text=text)
        await self._tell("response.content_part.done", **self._place, part={"type": "text", "text": text})
        await self._tell_output("response.output_item.done", status)
        await self._tell("response.done", response=self._about(status, usage))

    async def _tell_output(self, kind: str, status: str) -> None:
        await self._tell(kind, response_id=self._id, output_index=0, item=self._output(status))

    def _output(self, status: str) -> dict:
        """The item that it makes."""
        content = [{"type": "output_text", "text": self._text}] if self._text else []
        about = {"id": self._item, "object": "realtime.item", "type": "message", "role": "assistant"}
        return about | {"status": "in_progress" if status == "in_progress" else "completed", "content": content}

    def _about(self, status: str, usage: dict | None = None) -> dict:
        fields = {"id": self._id, "object": "realtime.response", "status": status, "output_modalities": ["text"]}
        return fields | {"output": [] if usage is None else [self._output(status)], "usage": usage, "metadata": None}
