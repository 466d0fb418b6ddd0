// Philox 4x32-10 (tinyddpm/backend/philox.py) with the streams of tinyddpm/backend/random.py, and dropout masks.

#pragma once

struct Words {
    unsigned word[4];

    // Word i, selected without indexing: the compiler would put an array with a run-time index into memory.
    __device__ unsigned at(int i) const {
        unsigned low = i & 1 ? word[1] : word[0], high = i & 1 ? word[3] : word[2];
        return i & 2 ? high : low;
    }
};

__device__ inline Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The stream of one sample: all of the counter and key but the number of the words.
struct SampleStream {
    unsigned sample, step, word, k0, k1;

    // The words of elements 4 counter to 4 counter + 3.
    __device__ Words draw(size_t counter) const { return philox((unsigned)counter, sample, step, word, k0, k1); }
};

// One stream for a batch. Step and samples are in device memory, so that a captured graph can be replayed with other
// values; `word` is purpose + 256 layer.
struct Stream {
    const long long *samples, *step;
    unsigned word, k0, k1;

    // The stream of sample n of the batch.
    __device__ SampleStream of(size_t n) const { return {(unsigned)samples[n], (unsigned)*step, word, k0, k1}; }
};

// A dropout mask: it keeps elements whose word is at least `least`, with probability `kept`.
struct Mask {
    Stream stream;
    long long least;
    float kept;

    // Multiplies elements i, ..., i + width - 1 of a sample by 0 or `by`; width is 1 or 4, and i a multiple of it.
    template <int width>
    __device__ void drop(const SampleStream& sample, size_t i, float by, float* values) const {
        Words drawn = sample.draw(i / 4);
        for (int lane = 0; lane < width; lane++) {
            unsigned word = width == 4 ? drawn.word[lane] : drawn.at(i % 4);
            values[lane] *= word >= least ? by : 0;
        }
    }
};
