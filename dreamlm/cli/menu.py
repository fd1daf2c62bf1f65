"""Which preset, when the command line names none: a menu on a terminal, the default otherwise."""

from dreamlm.cli.console import Console


def choose_preset(console: Console) -> str:
    """The name of a library preset; the empty answer, or nobody to ask, is `best_general`.

    Raises: UserMistake when the answer is no preset.
    """
    from dreamlm.core.errors import UserMistake
    from dreamlm.presets.library import DEFAULT_PRESET, description, names
    from dreamlm.presets.suggestions import close

    if not console.can_ask:
        console.notice(f"no --preset given: taking {DEFAULT_PRESET}")
        return DEFAULT_PRESET
    choices = [DEFAULT_PRESET, *(name for name in names() if name != DEFAULT_PRESET)]
    width = max(map(len, choices))
    for number, name in enumerate(choices, start=1):
        console.notice(f"{number:>3}  {name.ljust(width)}  {description(name)}")
    answer = console.ask(f"Which preset? A number or a name; Enter takes {DEFAULT_PRESET}: ")
    if not answer:
        return DEFAULT_PRESET
    if answer.isdecimal() and 1 <= int(answer) <= len(choices):
        return choices[int(answer) - 1]
    if answer in choices:
        return answer
    meant = close(answer, choices)
    hint = f"did you mean {meant}?" if meant else "for a file of your own, use --preset FILE"
    raise UserMistake(f"no preset is called {answer!r}", valid=choices, hint=hint)
