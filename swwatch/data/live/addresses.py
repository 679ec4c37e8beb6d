"""What may be opened as a live source, and how FFmpeg is told so: files, HTTP and RTSP addresses, cameras."""

import ipaddress
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from swwatch.data.video.frames import FORMATS
from swwatch.errors import UserError

SCHEMES = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}  # and their ports
CAMERA = "camera:"
# What FFmpeg may open behind an address. A playlist names other addresses, so it is read only where any may be opened.
WEB_PROTOCOLS = "http,https,tcp,tls,httpproxy,crypto"
RTSP_PROTOCOLS = "rtp,tcp,tls,udp"
PLAYLISTS = "hls,dash"
MAX_LENGTH = 2048  # of an address
CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class Location:
    """What PyAV is told to open.

    Attributes:
        kind: "file", "http", "rtsp" or "camera".
        shown: for messages; an address without its password.
    """

    kind: str
    address: str
    shown: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    path: Path | None = None  # of a file
    is_strangers: bool = False  # it is opened by way of a forward.Forwarder


def check_url(url: str, *, allow_private: bool = False) -> None:
    """Refuse addresses that must not be opened on behalf of somebody else. Resolves the host, so it may take a while.

    What a name resolves to may change: whoever opens it connects to what `public_addresses` finds then.

    Args:
        allow_private: also loopback, private, link-local and all other addresses that are not public.
    Raises:
        UserError: another scheme than http, https, rtsp and rtsps, a malformed address, an unknown host, or one with
            an address that is not public.
    """
    if allow_private:
        _place(url)
    else:
        public_addresses(url)


def public_addresses(url: str) -> list[tuple]:
    """What the host of an address resolves to now, as socket.getaddrinfo has it. Raises UserError, as `check_url`."""
    host, port = _place(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{shown_url(url)}: the host {host} is not known: check the address") from error
    for *_, (address, *_) in found:
        if not _is_public(address):
            raise UserError(f"{shown_url(url)} leads to {address}: only public addresses may be opened here")
    return found


def _place(url: str) -> tuple[str, int]:
    """Host and port of an address that has the right form."""
    if len(url) > MAX_LENGTH or not re.fullmatch(r"[!-\[\]-~]+", url):  # printable ASCII but for the backslash
        raise UserError("this address is too long, or has blanks, backslashes or letters that must be written as %XX")
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UserError(f"{shown_url(url)}: an address must begin with http://, https://, rtsp:// or rtsps://")
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port or SCHEMES[scheme]
    except ValueError as error:
        raise UserError(f"{shown_url(url)} is malformed: {error}") from error
    if not host:
        raise UserError(f"{shown_url(url)} names no host")
    return host, port


def _is_public(address: str) -> bool:
    """Whether this IP address, and the IPv4 address that may be wrapped in it, are public ones."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    wrapped = []
    if ip.version == 6:
        wrapped = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # translated to IPv4 by the network
            wrapped.append(ipaddress.ip_address(int(ip) & 0xFFFFFFFF))
    if ip.version == 6 and ip.is_site_local:  # which Python has among the global ones
        return False
    return all(one.is_global and not one.is_multicast for one in [ip, *wrapped] if one is not None)


def locate(source: str | Path, *, allow_private: bool = True, rtsp_transport: str = "tcp") -> Location:
    """What a source is and how PyAV is told to open it. Opens nothing. Arguments as for `live_sources.FrameStream`."""
    name = str(source)
    if isinstance(source, str) and ("://" in source or not allow_private):  # a stranger's can be nothing else
        check_url(source, allow_private=allow_private)
        if source.lower().startswith("http"):
            formats = f"{FORMATS},{PLAYLISTS}" if allow_private else FORMATS
            options = {"protocol_whitelist": WEB_PROTOCOLS, "format_whitelist": formats}
            if not allow_private:
                # no proxy of the environment's between FFmpeg and the forwarder, which follows redirects itself
                options |= {"protocol_whitelist": "http,tcp", "max_redirects": "0", "http_proxy": ""}
            return Location("http", source, shown_url(source), None, options, is_strangers=not allow_private)
        if rtsp_transport not in (("tcp", "udp") if allow_private else ("tcp",)):
            raise UserError(f"no RTSP transport {rtsp_transport!r}: choose tcp{' or udp' if allow_private else ''}")
        options = {"protocol_whitelist": RTSP_PROTOCOLS, "format_whitelist": f"rtsp,{FORMATS}"}
        # The frame rate is of no use here, and to find it out would take seconds.
        options |= {"rtsp_transport": rtsp_transport, "fpsprobesize": "0", "analyzeduration": "1000000"}
        if not allow_private:
            options["protocol_whitelist"] = "rtp,tcp"
        return Location("rtsp", source, shown_url(source), "rtsp", options, is_strangers=not allow_private)
    if name.startswith(CAMERA):
        return _camera(name.removeprefix(CAMERA), sys.platform)
    path = Path(source)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"{name} {reason}: give a video file, an address or camera:0")
    # "file:" keeps a name with a colon from being taken for another protocol
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    return Location("file", f"file:{path.resolve()}", name, None, options, path)


def _camera(name: str, platform: str) -> Location:
    form, shown = CAMERA_FORMATS.get(platform), CAMERA + name
    if form is None:
        raise UserError(f"{shown}: cameras are read on Linux, macOS and Windows; use an RTSP or HTTP address here")
    if not name:
        raise UserError("camera: lacks its number: camera:0 is the first")
    if form == "v4l2":
        if not re.fullmatch(r"\d+|/dev/\w[\w/-]*", name):
            raise UserError(f"{shown}: give its number or its device, such as camera:0 or camera:/dev/video0")
        return Location("camera", f"/dev/video{name}" if name.isdigit() else name, shown, form)
    if form == "avfoundation":
        return Location("camera", name, shown, form, {"framerate": "30"})  # most take no other
    if name.isdigit():
        import av.device

        cameras = [one.name for one in av.device.enumerate_input_devices(form) if "video" in one.media_types]
        if int(name) >= len(cameras):
            raise UserError(f"{shown}: there are {len(cameras)} cameras here, counted from 0")
        name = cameras[int(name)]
    return Location("camera", f"video={name}", shown, form)


def shown_url(url: str) -> str:
    """An address without user and password."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url)
