from pipeline.file_names import question_name


def test_different_questions_have_different_folders():
    texts = ["car", "car!", "Car", "車", "自動車", "a" * 60, "a" * 61, "fuel truck", "fuel-truck"]
    names = {question_name(text, "", []) for text in texts}
    assert len(names) == len(texts)
    assert all(name.isascii() and "/" not in name and len(name) < 60 for name in names)
    assert question_name("car", "door", []) != question_name("car", "", ["door"])
    assert question_name("car", "") == question_name("car", "")
