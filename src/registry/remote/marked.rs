//! An answer of Redis with a mark, which was published on the topic right behind it. Channels apply such an answer once the
//! mark has come back: then everything has come that was published before.

/// The answer to a command, which may come before its mark or after it.
#[derive(Debug, Default)]
pub(crate) struct Marked<T> {
    /// The number of the command.
    number: u64,
    is_marked: bool,
    answer: Option<T>,
}

impl<T> Marked<T> {
    /// Waits for both.
    pub(crate) fn new(number: u64) -> Self {
        Self { number, is_marked: false, answer: None }
    }

    /// Whether the command has this number.
    pub(crate) fn is_of(&self, number: u64) -> bool {
        self.number == number
    }

    /// The answer has come. Returns it if the mark has.
    pub(crate) fn on_answer(&mut self, answer: T) -> Option<T> {
        self.answer = Some(answer);
        if self.is_marked { self.answer.take() } else { None }
    }

    /// The mark has come. Returns the answer if that has.
    pub(crate) fn on_mark(&mut self) -> Option<T> {
        self.is_marked = true;
        self.answer.take()
    }

    /// Takes the answer if only the mark is missing; the number of the command comes with it.
    pub(crate) fn take_unmarked(&mut self) -> Option<(u64, T)> {
        self.answer.take().map(|answer| (self.number, answer))
    }
}
