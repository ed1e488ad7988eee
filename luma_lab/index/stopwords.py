"""Words that carry grammar and little else, for those who want them left out."""

SPANISH = frozenset(
    (
        "a al algo algunas algunos ante antes como con contra cual cuando de del desde donde "
        "dos durante e el él ella ellas ellos en entre era eran eres es esa esas ese eso esos "
        "esta está están estas este esto estos fue fueron ha había habían han has hasta hay "
        "he la las le les lo los más me mi mí mis mucho muchos muy nada ni no nos nosotros "
        "nuestra nuestro o os otra otras otro otros para pero poco por porque que qué quien "
        "quienes se sea ser si sí sido sin sobre son soy su sus también tan tanto te tiene "
        "tienen todo todos tu tú tus u un una unas uno unos vosotros y ya yo"
    ).split()
)
ENGLISH = frozenset(
    (
        "a about after all also am an and any are as at be because been before being but by "
        "can could did do does doing for from had has have having he her here hers him his "
        "how i if in into is it its just me more most my no nor not of on once only or other "
        "our ours out over own same she so some such than that the their theirs them then "
        "there these they this those through to too under until up very was we were what when "
        "where which while who whom why will with would you your yours"
    ).split()
)
STOP_WORDS = {"es": SPANISH, "en": ENGLISH}
