"""The queue between two stages."""

import threading

import pytest

from splatmend.plugin.video.channel import Channel


def test_items_arrive_in_order_and_no_more_than_the_capacity_wait():
    channel, fed = Channel(2), []

    def items():
        for i in range(50):
            fed.append(i)
            yield i

    producer = threading.Thread(target=channel.feed, args=(items(),))
    producer.start()
    seen = []
    for item in channel:
        assert len(fed) - len(seen) <= 4  # two wait, one at either end
        seen.append(item)
    producer.join()
    assert seen == list(range(50))


def test_an_error_reaches_the_consumer_after_what_came_before():
    channel = Channel(4)

    def items():
        yield 1
        raise ValueError("on purpose")

    channel.feed(items())
    arrived = iter(channel)
    assert next(arrived) == 1
    with pytest.raises(ValueError, match="on purpose"):
        next(arrived)


def test_stop_frees_a_producer_that_waits():
    channel = Channel(1)
    producer = threading.Thread(target=channel.feed, args=(range(1000),))
    producer.start()
    channel.stop()
    producer.join(5)
    assert not producer.is_alive()
    assert list(channel) == []
    assert channel.stopped
