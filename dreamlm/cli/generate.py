"""`dreamlm generate`: a trained model continues prompts."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import (
    CheckpointOption,
    DeviceOption,
    ExtendOption,
    JsonOption,
    RescaleOption,
    RunOption,
    SeedOption,
    SetOption,
    assignments,
    layer_choice,
)

if TYPE_CHECKING:
    from dreamlm.core.generation.row import Generation


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Default: one a line, or JSON lines, on stdin.")
    ] = None,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Divides the logits; 0 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Nucleus: the token that crosses this probability stays in.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Only the k most probable tokens; 0 is all.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")] = False,
    no_repeat_ngram: Annotated[
        int | None, typer.Option("--no-repeat-ngram", metavar="N", help="No N tokens in a row come twice; 0 is off.")
    ] = None,
    ngram_scope: Annotated[
        str | None, typer.Option("--ngram-scope", metavar="all|output", help="Whether the prompt counts for that.")
    ] = None,
    min_new_tokens: Annotated[int | None, typer.Option("--min-new-tokens", help="No end before that many.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="The end after that many.")] = None,
    diffusion_steps: Annotated[
        int | None, typer.Option("--diffusion-steps", metavar="N", help="Steps for a block of a diffusion model.")
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option("--confidence", metavar="probability|entropy", help="What makes one of its tokens sure."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the text before it; may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Texts for each prompt.")] = 1,
    seed: SeedOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Prompts written at once.")] = None,
    extend_max_seq_len: ExtendOption = None,
    rescale_layers: RescaleOption = None,
    sets: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model write: one text for each prompt.

    What is not given here is as in the preset's generate section. With --json, one line of JSON for each text.
    """
    from dreamlm.cli.places import model_place
    from dreamlm.cli.prompts import batches, chosen_prompts
    from dreamlm.core.generation.generate import generate as continue_prompts
    from dreamlm.core.training.memory import WRITING, within_memory
    from dreamlm.presets.resolve import resolve_values
    from dreamlm.wiring.loading import load

    console = Console(as_json)
    options = {
        "--temperature": ("temperature", temperature),
        "--top-p": ("top_p", top_p),
        "--top-k": ("top_k", top_k),
        "--greedy": ("greedy", greedy or None),
        "--no-repeat-ngram": ("no_repeat_ngram", no_repeat_ngram),
        "--ngram-scope": ("ngram_scope", ngram_scope),
        "--min-new-tokens": ("min_new_tokens", min_new_tokens),
        "--max-new-tokens": ("max_new_tokens", max_new_tokens),
        "--diffusion-steps": ("denoising.steps", diffusion_steps),
        "--confidence": ("denoising.confidence", confidence),
        "--stop": ("stop", stop or None),
        "--seed": ("seed", seed),
        "--batch-size": ("rows", batch_size),
    }
    wanted = chosen_prompts(prompts or (), sys.stdin)
    loaded = load(
        model_place(checkpoint, run),
        device or "auto",
        extend_max_seq_len=extend_max_seq_len,
        rescale_layers=layer_choice(rescale_layers),
    )
    values = loaded.preset.model_dump(mode="json")
    config = resolve_values(values, str(loaded.folder), [*(sets or ()), *assignments("generate", options)]).generate
    streamed = not as_json and prompts is not None and len(prompts) * samples == 1 and sys.stdout.isatty()
    repeated = (prompt for prompt in wanted for _ in range(samples))
    written = 0
    with within_memory(WRITING.failure):
        for batch in batches(repeated, config.rows):
            if streamed:
                console.raw(batch[0])
                continue_prompts(
                    loaded.model, loaded.tokenizer, batch, config, lambda prompt, piece: console.raw(piece)
                )
                console.result("")
                return
            for text in continue_prompts(loaded.model, loaded.tokenizer, batch, config, first_prompt=written):
                _tell(console, text, first=written == 0)
                written += 1


def _tell(console: Console, text: "Generation", first: bool) -> None:
    if console.as_json:
        console.json_line(text)
        return
    if text.dropped_prompt_tokens:
        console.warning(f"the model could not read the prompt's first {text.dropped_prompt_tokens} tokens")
    # Texts have empty lines of their own; a rule keeps two of them apart.
    if not first:
        console.result("---")
    console.result(text.prompt + text.text)
