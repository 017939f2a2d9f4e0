"""Texts with which tokenizers and models are tried: words, numbers and punctuation of many scripts, spaces, emoji."""

import unicodedata

QUESTION = "Who built it?"
_TEXTS = (
    "Ada Vane built 12 lighthouses (1871-1897), didn't she? The cost: 4,200 crowns.",
    "  Two  spaces,\ta tab\nand lines.\r\nThe end ",
    "Ørsted's naïve café, Ångström; die Straße über Köln, İstanbul, ﬁn de siècle, № 5, ½",
    "В 1871 году Ада построила маяк. Ёлка и чай; Η Άδα έχτισε τον φάρο.",
    "北京大学在哪里？它在海淀区。東京タワーは1958年に完成しました。",
    "서울은 대한민국의 수도이다. 다리는 1997년에 개통되었다.",
    "بنيت المنارة عام ١٨٧١ في القاهرة. מגדל האור נבנה בחיפה.",
    "प्रकाशस्तंभ १८७१ में बनाया गया। ประภาคารสร้างขึ้นเมื่อปี พ.ศ. ๒๔๑๔",
    "Emoji 👍🏽, 👨‍👩‍👧 and 🇩🇪: done… “quoted” – dashes — all.",
)
# As they are, composed (NFC), and decomposed (NFD): é as one character, and as e with an accent.
TEXTS = tuple(
    dict.fromkeys(
        text
        for original in _TEXTS
        for text in (original, *(unicodedata.normalize(f, original) for f in ("NFC", "NFD")))
    )
)
DOCUMENT = " ".join(_TEXTS)
