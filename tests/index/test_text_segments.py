"""Promises of segments: every form of every word has the postings that its words have."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.index.segment import Forms, build_segment, merge_segments, term_keys

N_WORDS = 7
documents = st.lists(st.lists(st.integers(-1, N_WORDS - 1), max_size=8), min_size=1, max_size=6)
# Any table: words of one stem may part again in the third form.
tables = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=N_WORDS, max_size=N_WORDS
)


def make(first_row, texts, forms, places):
    tokens = np.array([word for text in texts for word in text], np.int32)
    ends = np.cumsum([len(text) for text in texts])
    lengths = np.array([sum(word >= 0 for word in text) for text in texts])
    return build_segment(first_row, [(tokens, ends, lengths)], [forms], places)


def check(segment, texts, alive, forms):
    for form in range(forms.count):
        for term in set(forms.table[:, form].tolist()):
            words = set(np.flatnonzero(forms.table[:, form] == term).tolist())
            expected = {
                row: sum(word in words for word in text)
                for row, text in enumerate(texts)
                if alive[row] and words & set(text)
            }
            item = segment.list_of(int(term_keys(0, form, term)))
            if item < 0:
                assert not expected
                continue
            part = slice(segment.starts[item], segment.starts[item + 1])
            assert segment.rows[part].tolist() == list(expected)
            assert segment.counts[part].tolist() == list(expected.values())


@given(documents, documents, tables, st.booleans(), st.data())
def test_lists_hold_what_the_words_of_a_form_hold_also_when_merged(one, two, table, places, data):
    table = [(word, *others) for word, others in enumerate(table)]
    forms = Forms(np.array(table, np.int32), 3)
    segments = [make(0, one, forms, places), make(len(one), two, forms, places)]
    check(segments[0], one, np.ones(len(one), bool), forms)
    texts = one + two
    flags = st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))
    live = np.array(data.draw(flags), bool)
    merged = merge_segments(segments, live, [forms], places)
    check(merged, texts, live, forms)
    exact = {word for row, text in enumerate(texts) if live[row] for word in text if word >= 0}
    if exact:
        assert len(merged.starts) - 1 >= len(exact)
