// The matrix product for all kernels: a block computes one tile of TILE x TILE numbers.
//
// Each operand has a loader, which copies tile after tile along the inner dimension k to shared memory, STAGES - 1
// tiles ahead of the arithmetic. Four warps, two along m and two along n, hold the sums in registers in the layout of
// mma.sync: of each 16 x 8 part, lane l has rows l / 4 and l / 4 + 8, and columns 2 (l % 4) and 2 (l % 4) + 1.
//
// Macros choose among three kinds of arithmetic, all with float32 sums: bfloat16 (SCALAR_BF16) and float32 rounded to
// TF32 (TF32) on tensor cores, and plain float32, one number of k at a time. TILE and STAGES are macros too.
#pragma once
#include "common.cuh"
#include "tensor_cores.cuh"

const int THREADS = 128, VECTOR = 16 / sizeof(scalar), K_STEP = 64 / sizeof(scalar);

// The layout of an operand's tile in shared memory. Its lines are lines of the matrix in global memory, padded so that
// the lanes of a warp read from different banks. k runs along the lines, or with K_LINES across them.
template <bool K_LINES>
struct Tile {
    static const int LINES = K_LINES ? K_STEP : TILE, COLUMNS = K_LINES ? TILE : K_STEP;
    static const int LEAD = COLUMNS + (K_LINES ? 8 : VECTOR), SIZE = LINES * LEAD;
    static const int ACROSS = COLUMNS / VECTOR, SLOTS = LINES * ACROSS / THREADS;
    static const bool BY_LINES = K_LINES;

    // Each thread copies SLOTS vectors of the tile, at these lines and columns.
    static __device__ int line(int slot) { return (threadIdx.x + slot * THREADS) / ACROSS; }
    static __device__ int column(int slot) { return (threadIdx.x + slot * THREADS) % ACROSS * VECTOR; }
};

// Whether lines of a matrix can be copied 16 bytes at a time.
__device__ inline bool in_vectors(const scalar* matrix, int lead, int columns) {
    return (size_t)matrix % 16 == 0 && lead % VECTOR == 0 && columns % VECTOR == 0;
}

// Copies this thread's part of a tile that begins at column `first` of `columns`, with zeros outside the matrix.
// line(slot) is the address of a line of the matrix, or null outside it.
template <class T, class Line>
__device__ void copy_tile(scalar* tile, const scalar* matrix, int first, int columns, bool vectors, Line line) {
    for (int slot = 0; slot < T::SLOTS; slot++) {
        const scalar* from = line(slot);
        int column = first + T::column(slot), count = from ? columns - column : 0;
        scalar* to = tile + T::line(slot) * T::LEAD + T::column(slot);
        if (vectors) {
            begin_copy(to, count > 0 ? from + column : matrix, count > 0 ? 16 : 0);
        } else {
            for (int i = 0; i < VECTOR; i++) to[i] = i < count ? from[column + i] : store(0.0f);
        }
    }
}

// Loads tiles of a matrix, one after the other along k. At the end of k the next matrix begins, `jump` numbers on.
template <bool K_LINES>
struct Matrix {
    typedef ::Tile<K_LINES> Tile;
    const scalar* matrix;
    int lead, lines, columns, line, column;
    long long jump;
    bool vectors;

    // A matrix (lines, columns) with `row` numbers from line to line, loaded from this line and column on.
    __device__ Matrix(const scalar* start, int row, int lines, int columns, int line, int column, long long next = 0)
        : matrix(start), lead(row), lines(lines), columns(columns), line(line), column(column), jump(next),
          vectors(in_vectors(start, row, columns)) {}

    __device__ void load(scalar* tile) {
        copy_tile<Tile>(tile, matrix, column, columns, vectors, [&](int slot) {
            int i = line + Tile::line(slot);
            return i < lines ? matrix + (size_t)i * lead : nullptr;
        });
        int& k = K_LINES ? line : column;
        k += K_STEP;
        if (k < (K_LINES ? lines : columns)) return;
        k = 0;
        matrix += jump;
    }
};

// load_part loads a lane's part of 16 rows of a, or columns of b, along PART_K numbers of k, from row or column
// `lines`.
#ifdef SCALAR_BF16
const int PART_K = 16;
typedef unsigned word;

template <class T>
__device__ void load_part(word* part, const scalar* tile, int lines, int k, bool) {
    int lane = threadIdx.x % 32, low = lane % 16, high = lane / 16 * 8;  // matrices: lines 0-7 and 8-15 at k, then k + 8
    if (T::BY_LINES) {
        load_matrices_transposed(part, tile + (k + high + lane % 8) * T::LEAD + lines + low / 8 * 8);
    } else {
        load_matrices(part, tile + (lines + low) * T::LEAD + k + high);
    }
}

__device__ inline void multiply(float* sum, const word* a, word b_0, word b_1) { mma_bf16(sum, a, b_0, b_1); }
#elif defined(TF32)
const int PART_K = 8;
typedef unsigned word;

template <class T>
__device__ void load_part(word* part, const scalar* tile, int lines, int k, bool) {
    int lane = threadIdx.x % 32;
    if (T::BY_LINES) {
        const float* first = tile + (k + lane % 4) * T::LEAD + lines + lane / 4;
        for (int i = 0; i < 4; i++) part[i] = tf32(first[i / 2 * 4 * T::LEAD + i % 2 * 8]);
    } else {  // a row of eight 16-bit numbers is here four 32-bit numbers
        load_matrices(part, tile + (lines + lane % 16) * T::LEAD + k + lane / 16 * 4);
        for (int i = 0; i < 4; i++) part[i] = tf32(__uint_as_float(part[i]));
    }
}

__device__ inline void multiply(float* sum, const word* a, word b_0, word b_1) { mma_tf32(sum, a, b_0, b_1); }
#else
const int PART_K = 1;
typedef float word;

template <class T>
__device__ void load_part(word* part, const scalar* tile, int lines, int k, bool rows) {
    int line = lines + (rows ? threadIdx.x % 32 / 4 : threadIdx.x % 4 * 2);
    for (int i = 0; i < (rows ? 2 : 4); i++) {
        int at = line + i % 2 * 8 + i / 2;
        part[i] = T::BY_LINES ? tile[k * T::LEAD + at] : tile[at * T::LEAD + k];
    }
}

__device__ inline void multiply(float* sum, const word* a, word b_0, word b_1) {
    for (int i = 0; i < 4; i++) sum[i] += a[i / 2] * (i % 2 ? b_1 : b_0);
}
#endif

// The result of a product, (m, n), with `lead` numbers from row to row, of type scalar or float.
template <class Number>
struct Output {
    struct alignas(2 * sizeof(Number)) Pair { Number first, second; };
    Number* start;
    int m, n, lead;
    const float* bias = nullptr;  // (n), added to each row
    const Number* residual = nullptr;  // (m, n) in the layout of the output, added too

    static __device__ float get(float value) { return value; }
    static __device__ void put(float* to, float value) { *to = value; }
#ifdef SCALAR_BF16
    static __device__ float get(scalar value) { return load(value); }
    static __device__ void put(scalar* to, float value) { *to = store(value); }
#endif

    // Whether neighbours in every row are aligned as a Pair.
    __device__ bool in_pairs(const Number* matrix) const {
        return n % 2 == 0 && lead % 2 == 0 && (size_t)matrix % sizeof(Pair) == 0;
    }

    // Reads two neighbours in a row of the residual, outside it the nearest: without a branch, loads do not wait.
    __device__ void read(int row, int column, float* two) const {
        const Number* line = residual + (size_t)min(row, m - 1) * lead;
        if (in_pairs(residual)) {
            Pair pair = *(const Pair*)(line + min(column, n - 2));
            two[0] = get(pair.first);
            two[1] = get(pair.second);
        } else {
            two[0] = get(line[min(column, n - 1)]);
            two[1] = get(line[min(column + 1, n - 1)]);
        }
    }

    // Writes two neighbours in a row.
    __device__ void write(int row, int column, const float* sums, const float* added) const {
        if (row >= m || column >= n) return;
        bool two = column + 1 < n;
        Number* to = start + (size_t)row * lead + column;
        Pair pair;
        put(&pair.first, sums[0] + (bias ? bias[column] : 0) + added[0]);
        put(&pair.second, sums[1] + (bias && two ? bias[column + 1] : 0) + added[1]);
        if (in_pairs(start)) {
            *(Pair*)to = pair;
        } else {
            to[0] = pair.first;
            if (two) to[1] = pair.second;
        }
    }
};

// Computes the tile of the output at (first_row, first_column): the product of the loaders' operands over `steps` tiles
// of k. If `b_sums`, (n), is given, one thread per column of b sums that column into it; k must run across b's lines.
template <class A, class B, class Number>
__device__ void product(
    A a, B b, int steps, const Output<Number>& output, int first_row, int first_column, float* b_sums = nullptr
) {
    const int PARTS = TILE / 32, STAGE = A::Tile::SIZE + B::Tile::SIZE;  // parts of 16 rows, and of 16 columns
    scalar* tiles = (scalar*)shared;  // (STAGES, STAGE)
    int warp = threadIdx.x / 32, row = warp % 2 * (TILE / 2), column = warp / 2 * (TILE / 2);
    float sums[PARTS][2 * PARTS][4] = {}, b_sum = 0;

    auto fetch = [&](int step) {
        if (step < steps) {
            a.load(tiles + step % STAGES * STAGE);
            b.load(tiles + step % STAGES * STAGE + A::Tile::SIZE);
        }
        end_group();  // also an empty group: each step waits for its own
    };
    for (int step = 0; step < STAGES - 1; step++) fetch(step);
    for (int step = 0; step < steps; step++) {
        wait_for_groups<STAGES - 2>();
        __syncthreads();  // all threads see this step's tiles and have read those that the next fetch overwrites
        fetch(step + STAGES - 1);
        const scalar* tile = tiles + step % STAGES * STAGE;
        if (B::Tile::BY_LINES && b_sums && threadIdx.x < TILE) {
            float of_tile = 0;
            for (int k = 0; k < K_STEP; k++) of_tile += load(tile[A::Tile::SIZE + k * B::Tile::LEAD + threadIdx.x]);
            b_sum += of_tile;
        }
#pragma unroll 4
        for (int k = 0; k < K_STEP; k += PART_K) {
            word a_parts[PARTS][4], b_parts[PARTS][4];
#pragma unroll
            for (int i = 0; i < PARTS; i++) load_part<typename A::Tile>(a_parts[i], tile, row + 16 * i, k, true);
#pragma unroll
            for (int j = 0; j < PARTS; j++) {
                load_part<typename B::Tile>(b_parts[j], tile + A::Tile::SIZE, column + 16 * j, k, false);
            }
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
#pragma unroll
                for (int j = 0; j < 2 * PARTS; j++) {
                    multiply(sums[i][j], a_parts[i], b_parts[j / 2][j % 2], b_parts[j / 2][j % 2 + 2]);
                }
            }
        }
    }

    int own = first_column + threadIdx.x;
    if (b_sums && threadIdx.x < TILE && own < output.n) b_sums[own] = b_sum;
    int lane = threadIdx.x % 32;
    row += first_row + lane / 4;
    column += first_column + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        float added[2 * PARTS][4] = {};  // all loads are issued before the first result is used
        if (output.residual) {
#pragma unroll
            for (int j = 0; j < 2 * PARTS; j++) {
                output.read(row + 16 * i, column + 8 * j, added[j]);
                output.read(row + 16 * i + 8, column + 8 * j, added[j] + 2);
            }
        }
#pragma unroll
        for (int j = 0; j < 2 * PARTS; j++) {
            output.write(row + 16 * i, column + 8 * j, sums[i][j], added[j]);
            output.write(row + 16 * i + 8, column + 8 * j, sums[i][j] + 2, added[j] + 2);
        }
    }
}

__device__ inline int quotient_up(int a, int b) { return (a + b - 1) / b; }
