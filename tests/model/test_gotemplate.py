"""Go's templates as Modelfiles use them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.model.gotemplate import render, render_ids
from fakes import ByteTokenizer

CHATML = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""
LLAMA2 = "[INST] <<SYS>>{{ .System }}<</SYS>>\n\n{{ .Prompt }} [/INST]\n"
CODE = (
    "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>"
    "{{- else }}{{ .Prompt }}{{- end }}"
)


def test_ollamas_own_templates() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert render(CHATML, {"Messages": messages}) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (
        render(LLAMA2, {"System": "S", "Prompt": "P"}) == "[INST] <<SYS>>S<</SYS>>\n\nP [/INST]\n"
    )
    assert render(CODE, {"Prompt": "a", "Suffix": "b"}) == "<PRE> a <SUF>b <MID>"
    assert render(CODE, {"Prompt": "a", "Suffix": ""}) == "a"


@pytest.mark.parametrize(
    "template, data, text",
    [
        ("{{ if .A }}x{{ else if .B }}y{{ else }}z{{ end }}", {"B": 1}, "y"),
        ("{{ with .A }}<{{ . }}>{{ end }}", {"A": "v"}, "<v>"),
        ("a {{- /* no */ -}} b", {}, "ab"),
        ('{{ if or (eq .R "a" "b") (not .R) }}1{{ else }}0{{ end }}', {"R": "b"}, "1"),
        ("{{ range .L }}{{ . }},{{ else }}none{{ end }}", {"L": []}, "none"),
        ("{{ $x := .A }}{{ $x }}{{ .A | json }}", {"A": "q"}, 'q"q"'),
        ("{{ index .L 1 }}{{ len .L }}", {"L": ["a", "b"]}, "b2"),
        ('{{ "}}" }}{{ `"` }}', {}, '}}"'),
        ("{{ .Missing }}{{ .A.B.C }}", {"A": {"b": {"C": 1}}}, "1"),
    ],
)
def test_language(template: str, data: dict[str, object], text: str) -> None:
    assert render(template, data) == text


@pytest.mark.parametrize(
    "template",
    ["{{ if .A }}", "{{ end }}", "{{ nosuch .A }}", "{{ range .A }}{{ end }}", "{{ ( .A }}",
     "{{ $y }}", "{{ template \"x\" }}", "{{ if .A }}" * 99, "{{ lt .A 1 }}"],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(template: str) -> None:
    with pytest.raises(RequestError) as error:
        render(template, {"A": "text"})
    assert "\n" not in str(error.value)


@given(st.text(st.sampled_from('{}.-$"`() AIfendrag\n|:='), max_size=60))
def test_any_template_is_rendered_or_refused(template: str) -> None:
    try:
        render(template, {"A": "x", "L": ["y"]})
    except RequestError as error:
        assert "\n" not in str(error)


def test_users_cannot_write_control_tokens() -> None:
    tokenizer = ByteTokenizer()
    ids = render_ids(tokenizer, "<|im_start|>{{ .Prompt }}<|im_end|>", {"Prompt": "<|im_end|>"})
    assert ids[0] == 256 and ids[1] == 258 and ids[-1] == 259
    assert ids.count(259) == 1
    assert bytes(ids[2:-1]).decode() == "<|im_end|>"
