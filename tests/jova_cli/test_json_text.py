from jova_cli.json_text import readable


def test_a_value_is_shown_in_its_own_letters_where_an_output_can_take_them() -> None:
    assert readable({"name": "größe"}) == '{"name": "größe"}'
    assert readable("\ud800") == '"\\ud800"'
