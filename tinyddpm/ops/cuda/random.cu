// The random numbers of tinyddpm/backend/random.py, and training batches drawn by them. One thread per counter, which
// gives four elements of one sample.
#include "common.cuh"
#include "philox.cuh"

// The sample n and the counter that this thread draws. Surplus threads have an n beyond the number of samples.
struct Place {
    long long n, counter;

    __device__ Place(long long size) {
        long long counters = (size + 3) / 4;
        n = element() / counters;
        counter = element() % counters;
    }
};

// Box and Muller in float64, rounded once, which gives the same numbers as NumPy.
__device__ void normals(Words bits, float* z) {
    for (int pair = 0; pair < 2; pair++) {
        double radius = sqrt(-2.0 * log((bits.word[2 * pair] + 0.5) / 4294967296.0));
        double angle = bits.word[2 * pair + 1] * (6.283185307179586 / 4294967296.0);
        z[2 * pair] = (float)(radius * cos(angle));
        z[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

// Writes words, uniform over [0, 2^32), (count, size).
extern "C" __global__ void philox_bits(
    long long* words, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long count, long long size
) {
    Place at(size);
    if (at.n >= count) return;
    Words drawn = Stream{samples, step, stream, k0, k1}.of(at.n).draw(at.counter);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * at.counter + lane;
        if (i < size) words[at.n * size + i] = drawn.word[lane];
    }
}

// Writes eps ~ N(0, 1), (count, size).
extern "C" __global__ void philox_normal(
    float* eps, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long count, long long size
) {
    Place at(size);
    if (at.n >= count) return;
    float z[4];
    normals(Stream{samples, step, stream, k0, k1}.of(at.n).draw(at.counter), z);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * at.counter + lane;
        if (i < size) eps[at.n * size + i] = z[lane];
    }
}

__device__ inline float to_model(unsigned char value) { return value / 127.5f - 1.0f; }
__device__ inline float to_model(float value) { return value; }

// The streams of a batch, for times, noise and flips: they differ in their words and share the key.
struct Batch {
    const long long *places, *samples, *step;
    unsigned times, noises, flips, k0, k1;
    int flip;  // whether images are mirrored at random
};

// Writes x_0[n] = data[places[n]], mapped to the model's range, and mirrored along rows of `width` pixels if the word
// of its flip is below 2^31; t[n], uniform over [0, T); eps ~ N(0, 1); x_t = signal[t] x_0 + noise[t] eps (DDPM eq. 4).
// All but t, (count), are (count, size).
template <class Value>
__device__ void noised(
    const Value* data, Batch batch, const float* signal, const float* noise, float* x_0, long long* t, float* eps,
    float* x_t, int T, int width, int channels, long long count, long long size
) {
    Place at(size);
    if (at.n >= count) return;
    auto drawn = [&](unsigned word, long long counter) {
        return Stream{batch.samples, batch.step, word, batch.k0, batch.k1}.of(at.n).draw(counter);
    };
    long long time = (long long)((unsigned long long)drawn(batch.times, 0).word[0] * T >> 32);
    bool mirrored = batch.flip && drawn(batch.flips, 0).word[0] < 1u << 31;
    if (at.counter == 0) t[at.n] = time;

    float z[4], keep = signal[time], add = noise[time];
    normals(drawn(batch.noises, at.counter), z);
    for (int lane = 0; lane < 4; lane++) {
        long long i = 4 * at.counter + lane, from = i;
        if (i >= size) continue;
        if (mirrored) from += (width - 1 - 2 * (i / channels % width)) * channels;
        float value = to_model(data[batch.places[at.n] * size + from]);
        x_0[at.n * size + i] = value;
        eps[at.n * size + i] = z[lane];
        x_t[at.n * size + i] = keep * value + add * z[lane];
    }
}

extern "C" __global__ void noised_images(
    const unsigned char* data, const long long* places, const long long* samples, const long long* step,
    unsigned times, unsigned noises, unsigned flips, unsigned k0, unsigned k1, const float* signal, const float* noise,
    float* x_0, long long* t, float* eps, float* x_t, int flip, int T, int width, int channels, long long count,
    long long size
) {
    Batch batch = {places, samples, step, times, noises, flips, k0, k1, flip};
    noised(data, batch, signal, noise, x_0, t, eps, x_t, T, width, channels, count, size);
}

extern "C" __global__ void noised_points(
    const float* data, const long long* places, const long long* samples, const long long* step,
    unsigned times, unsigned noises, unsigned flips, unsigned k0, unsigned k1, const float* signal, const float* noise,
    float* x_0, long long* t, float* eps, float* x_t, int flip, int T, int width, int channels, long long count,
    long long size
) {
    Batch batch = {places, samples, step, times, noises, flips, k0, k1, flip};
    noised(data, batch, signal, noise, x_0, t, eps, x_t, T, width, channels, count, size);
}
