"""What a session says, as the text of one answer: without the marks of silence, and with the token of each piece."""

from collections.abc import AsyncIterator

from swwatch.client.protocol import End, Error, Event, ProtocolError, Token, Turn
from swwatch.rules.systems import ELLIPSIS
from swwatch.serve.session import ServedSession

OVER = {  # reason of an end -> the error that it is to somebody who waits for an answer
    "idle": ("source", "nothing came from the video for too long"),
    "shutdown": ("full", "the server is stopping"),
    "error": ("server_error", "the session ended with an error"),
}


class Words:
    """Text of one session. In chat turns a " ..." at the end of a turn says that more is to come, and is no word."""

    def __init__(self, in_turns: bool):
        self._in_turns, self._held, self._said, self._between = in_turns, "", False, False

    def of(self, event: Event) -> str:
        """The text that is certain now."""
        if isinstance(event, Turn):
            self._held, self._between = "", self._said
        if not isinstance(event, Token) or not event.text:
            return ""
        text, self._held = self._held + event.text, ""
        if self._in_turns and event.text == ELLIPSIS:
            text, self._held = text.removesuffix(ELLIPSIS), ELLIPSIS
        if text and self._between:  # words of two turns do not run together
            text, self._between = text if text[0].isspace() else f" {text}", False
        self._said |= bool(text)
        return text


class Stops:
    """Texts that end an answer, and are no part of it. What may be the beginning of one is held back."""

    def __init__(self, stops: list[str]):
        self._stops, self.rest = stops, ""

    def take(self, text: str) -> tuple[str, bool]:
        """What may be told, and whether the answer has ended."""
        text = self.rest + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.rest = ""
            return text[: min(found)], True
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self.rest = text[len(text) - held :]
        return text[: len(text) - held], False


class AnswerConnection:
    """Who waits for one answer: nobody can take its session over, or go on with it elsewhere."""

    def replace(self) -> None:
        """It cannot be: nobody is told the session's secret."""

    def restart(self) -> None:
        """It is not kept."""


class Answer:
    """Of one session.

    Attributes:
        finish: why it ended, in OpenAI's words.
        num_tokens: that were said.
    """

    def __init__(
        self, session: ServedSession, connection: AnswerConnection, in_turns: bool, limit: int, stops: list[str]
    ):
        """Args: limit: tokens of the answer."""
        self.session, self._connection, self._limit = session, connection, limit
        self._words, self._stops = Words(in_turns), Stops(stops)
        self.finish, self.num_tokens = "stop", 0

    async def pieces(self) -> AsyncIterator[tuple[str, Token]]:
        """Text, and the newest token that it is of.

        Raises:
            ProtocolError: the session ended with an error, or before all was said.
        """
        error, newest = None, None
        while True:
            message = await self.session.outbox.next()
            if isinstance(message, Error):
                error = ProtocolError(message.code, message.message)
            if isinstance(message, End):
                if error or message.reason in OVER:
                    raise error or ProtocolError(*OVER[message.reason])
                self.finish = "length" if message.reason == "limit" else self.finish
                break
            text, ends = self._stops.take(self._words.of(message))
            if isinstance(message, Token):
                newest, self.num_tokens = message, self.num_tokens + 1
                if not ends and self.num_tokens >= self._limit:
                    self.finish, ends = "length", True
            if text:
                yield text, newest
            if ends:
                break
        if self._stops.rest:
            yield self._stops.rest, newest

    def close(self) -> None:
        """Nobody reads on: the session's place is free again."""
        self.session.stop("stopped")
        self.session.detach(self._connection)
