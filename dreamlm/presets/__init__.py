"""What to train, as data: a library of JSON presets, the schema they obey, and how a name becomes a checked `Preset`.

1. `library` finds a preset by name or file and follows its `extends` chain.
2. `document` reads each file and remembers on which line every key stands.
3. `layers` merges the chain, parents first, and then the `--set` assignments.
   `paths` makes relative paths start beside the file that holds them.
4. `schema` composes the configuration classes of the other folders into `Preset`.
5. `mistakes` turns everything the schema objects to into readable lines, with help from `suggestions`.
6. `resolve` is the whole way, from a name to a `Preset` or one `PresetError` that lists all mistakes.
   `written` is the way back, to JSON that resolves to the same.
"""
