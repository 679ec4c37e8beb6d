"""How a mistake is told over HTTP: in one form, which OpenAI's clients read as theirs."""

from fastapi.responses import JSONResponse

from swwatch.client.codes import ProtocolError

STATUS = {  # 400 of all others
    "unauthorised": 401,
    "origin": 403,
    "not_found": 404,
    "too_large": 413,
    "too_many_pixels": 413,
    "full": 429,
    "too_fast": 429,
    "model_error": 500,
    "server_error": 500,
}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def refusal(error: ProtocolError) -> JSONResponse:
    """The answer to a request that is not done."""
    headers = {"www-authenticate": "Bearer"} if error.code == "unauthorised" else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return JSONResponse(error_body(error.code, error.message, error.param), STATUS.get(error.code, 400), headers)


def error_body(code: str, message: str, param: str | None = None) -> dict:
    """Its body. Args: param: the field of the request that is at fault."""
    status = STATUS.get(code, 400)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"code": code, "message": message, "type": kind, "param": param}}
