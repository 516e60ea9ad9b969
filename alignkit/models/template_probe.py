"""Run as a program by `chat_templates`: renders a chat template on a few short dialogues, in a process that may use little and is killed.

Reads {"template": ..., "tokens": {...}} on standard input, writes {"refusal": ... or null} on standard output. Knows nothing of alignkit,
so that it starts in a moment.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from itertools import product
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2
MEMORY_BYTES = 2**30
FULL = f"takes more than {MEMORY_BYTES // 2**20} MiB for a dialogue of a few words"
LONGEST = 1_000_000
"""Characters of a text that says what is below."""
ASKED, ANSWERED, SYSTEM = ({"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("system", "c")))
DIALOGUES = ([ASKED], [ASKED, ANSWERED], [SYSTEM, ASKED], [ASKED, ANSWERED, ASKED], [SYSTEM, *[ASKED, ANSWERED] * 4])


class Generation(Extension):
    """The tag with which templates mark what an assistant says."""

    tags = {"generation"}  # noqa: RUF012  as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox that transformers renders templates in."""
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox


def to_json(value: Any, **options: Any) -> str:
    """Transformers' own: Jinja's would write for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def refuse(message: str) -> None:
    """What a template calls to say that a dialogue is none for it."""
    raise TemplateError(message)


def refusal(template: str, tokens: dict[str, str]) -> str | None:
    """Why a template is not to be used; None where it may be right or wrong, but does no harm."""
    try:
        compiled = environment().from_string(template)
    except MemoryError:
        return FULL
    except (TemplateError, RecursionError) as error:
        return f"is no template ({error})"
    for messages, generate in product(DIALOGUES, (True, False)):
        try:
            text = compiled.render(messages=messages, add_generation_prompt=generate, tools=None, documents=None, **tokens)
        except SecurityError as error:
            return f"reaches for what no template may ({error})"
        except MemoryError:
            return FULL
        except Exception:  # it does not know such dialogues: whoever has one is told so
            continue
        if len(text) > LONGEST:
            return f"writes {len(text):,} characters for a dialogue of a few words"
    return None


def main() -> None:
    """Answer one question."""
    question = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump({"refusal": refusal(question["template"], question["tokens"])}, sys.stdout)


if __name__ == "__main__":
    main()
