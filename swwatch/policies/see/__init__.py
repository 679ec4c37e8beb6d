"""SEE: which tokens of a patch go to the LLM. One table; each row has a file of its own, seen.py asks them."""

from swwatch.policies.see.curve import Curve
from swwatch.policies.see.dtd import Dtd, DtdPixels
from swwatch.policies.see.flash import Flash
from swwatch.policies.see.policy import ALL, Merged, See, SeeAll, SeeState
from swwatch.policies.see.stc import Stc
from swwatch.policies.see.stc_cacher import StcCacher
from swwatch.policies.table import parse, table

__all__ = ["ALL", "SEE", "Merged", "See", "SeeState", "parse_see"]

SEE = table(SeeAll, Dtd, DtdPixels, Stc, StcCacher, Flash, Curve)


def parse_see(text: str | See) -> See:
    """Inverse of `str(policy)`.

    Raises:
        UserError: not one of the forms.
    """
    return parse(SEE, text)
