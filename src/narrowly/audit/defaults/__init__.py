"""Tables of defaults: what each tool takes where nothing is said, by version. Data only; `read` looks them up.

One `<tool>.yaml` per tool. A row:

    - field: learning_rate        # of record.FIELDS
      value: 2.0e-5               # as the tool spells it: optimisers become canonical when read, the spelling is kept
      of: SFTConfig               # class, sub-command or recipe; left out: all
      when: {adapter: lora}       # further conditions, by words of the detector's choice; left out: always
      since: "1.0"                # first version, inclusive; left out: every earlier one
      until: "2.0"                # first version it does not hold for; left out: still
      source: "trl/trainer/sft_config.py at 1.16.0"

Of several rows that fit, the one with more conditions wins, then the later one. Rows are tested against the tool's own
class or wheel (tests/audit/test_defaults.py, `make audit-defaults`).
"""
