// Convolution and its gradients (tinyddpm/ops/convolution.py) as matrix products that read patches from the image
// itself, tap by tap, without storing them ("implicit GEMM"). A linear map is the case of a 1 x 1 kernel. Images are
// NHWC. Weights are read as (c_out, kh, kw, c_in), which is cuDNN's order too (packing.cu); their gradient is written
// as (kh, kw, c_in, c_out). Blocks are numbered along the columns of the product first.
#include "product.cuh"

// A window of kh x kw taps over images. Tap (p, q) of pixel (n, i, j) of the grid (rows, columns) reads the image's
// pixel ((i step + p - top) / divide, (j step + q - left) / divide) if these are integers and inside the image, else 0.
struct Window {
    const scalar* images;
    int pixels, height, width, channels, rows, columns, step, divide, top, left;

    struct Place { const scalar* image; int h, w; };  // tap (0, 0) before the division

    __device__ Place place(int pixel) const {
        if (pixel >= pixels) return {nullptr, 0, 0};
        int row = (unsigned)pixel / columns, n = (unsigned)row / rows;  // unsigned division is faster
        const scalar* image = images + (size_t)n * height * width * channels;
        return {image, (row - n * rows) * step - top, (pixel - row * columns) * step - left};
    }

    __device__ const scalar* at(const Place& place, int p, int q) const {
        int h = place.h + p, w = place.w + q;
        if (divide > 1) {
            if (h % divide != 0 || w % divide != 0) return nullptr;
            h /= divide;
            w /= divide;
        }
        if (!place.image || h < 0 || h >= height || w < 0 || w >= width) return nullptr;
        return place.image + ((size_t)h * width + w) * channels;
    }
};

// Loads patches with pixels as rows of the product: k runs over the channels of a tap, then over the taps.
struct Patches {
    typedef ::Tile<false> Tile;
    Window window;
    Window::Place places[Tile::SLOTS];
    const scalar* lines[Tile::SLOTS];  // addresses of the current tap
    int kw, p, q, c;
    bool vectors;

    __device__ Patches(const Window& of, int first, int kw)
        : window(of), kw(kw), p(0), q(0), c(0), vectors(in_vectors(of.images, of.channels, of.channels)) {
        for (int slot = 0; slot < Tile::SLOTS; slot++) places[slot] = window.place(first + Tile::line(slot));
        find_lines();
    }

    __device__ void find_lines() {
        for (int slot = 0; slot < Tile::SLOTS; slot++) lines[slot] = window.at(places[slot], p, q);
    }

    __device__ void load(scalar* tile) {
        copy_tile<Tile>(tile, window.images, c, window.channels, vectors, [&](int slot) { return lines[slot]; });
        c += K_STEP;
        if (c < window.channels) return;
        c = 0;
        if (++q == kw) {
            q = 0;
            p++;
        }
        find_lines();
    }
};

// Loads patches with pixels as k, for the channels of one tap from channel c on.
struct PatchesTransposed {
    typedef ::Tile<true> Tile;
    Window window;
    int pixel, p, q, c;
    bool vectors;

    __device__ PatchesTransposed(const Window& of, int first, int p, int q, int c)
        : window(of), pixel(first), p(p), q(q), c(c), vectors(in_vectors(of.images, of.channels, of.channels)) {}

    __device__ void load(scalar* tile) {
        copy_tile<Tile>(tile, window.images, c, window.channels, vectors, [&](int slot) {
            return window.at(window.place(pixel + Tile::line(slot)), p, q);
        });
        pixel += K_STEP;
    }
};

// y = P(x) W + b + residual, (pixels, c_out).
extern "C" __global__ void __launch_bounds__(128, 2) convolution_forward(
    const scalar* x, const scalar* w, const float* b, const scalar* residual, scalar* y, int pixels, int c_in,
    int c_out, int height, int width, int rows, int columns, int kh, int kw, int stride, int top, int left
) {
    int across = quotient_up(c_out, TILE), m = blockIdx.x / across * TILE, n = blockIdx.x % across * TILE;
    Window window = {x, pixels, height, width, c_in, rows, columns, stride, 1, top, left};
    Matrix<false> weights(w, kh * kw * c_in, c_out, c_in, n, 0, c_in);
    Output<scalar> output = {y, pixels, c_out, c_out, b, residual};
    product(Patches(window, m, kw), weights, kh * kw * quotient_up(c_in, K_STEP), output, m, n);
}

// dx = P^T (dy W^T) + added, (pixels, c_in). Tap p of pixel i of y reads pixel h = stride i + p - top of x. So pixel h
// of x receives from pixels i = (h + p' - top') / stride of y, p' = kh - 1 - p, top' = kh - 1 - top: a window over dy
// with the taps in reverse order.
extern "C" __global__ void __launch_bounds__(128, 2) convolution_dx(
    const scalar* dy, const scalar* w, const scalar* added, scalar* dx, int pixels, int c_in, int c_out, int height, int width, int rows,
    int columns, int kh, int kw, int stride, int top, int left
) {
    int across = quotient_up(c_in, TILE), m = blockIdx.x / across * TILE, n = blockIdx.x % across * TILE;
    Window window = {dy, pixels, rows, columns, c_out, height, width, 1, stride, kh - 1 - top, kw - 1 - left};
    int last_tap = (kh * kw - 1) * c_in;
    Matrix<true> weights(w + last_tap, kh * kw * c_in, c_out, c_in, 0, n, -c_in);
    Output<scalar> output = {dx, pixels, c_in, c_in, nullptr, added};
    product(Patches(window, m, kw), weights, kh * kw * quotient_up(c_out, K_STEP), output, m, n);
}

// dw[split] = P(x)^T dy over `each` of y's pixels, a multiple of K_STEP: (splits, kh, kw, c_in, c_out). The blocks of
// the first channels of the first tap also write db[split], the sum of dy over these pixels, (splits, c_out).
extern "C" __global__ void __launch_bounds__(128, 2) convolution_dw(
    const scalar* x, const scalar* dy, float* dw, float* db, int pixels, int c_in, int c_out, int height, int width, int rows,
    int columns, int kh, int kw, int stride, int top, int left, int each
) {
    int across = quotient_up(c_out, TILE), down = quotient_up(c_in, TILE), block = blockIdx.x / across;
    int m = block % down * TILE, n = blockIdx.x % across * TILE, tap = block / down % (kh * kw);
    int split = block / down / (kh * kw), first = split * each, last = min(first + each, pixels);
    Window window = {x, last, height, width, c_in, rows, columns, stride, 1, top, left};
    PatchesTransposed patches(window, first, tap / kw, tap % kw, m);
    Matrix<true> gradient(dy, c_out, last, c_out, first, n);
    Output<float> output = {dw + ((size_t)split * kh * kw + tap) * c_in * c_out, c_in, c_out, c_out};
    float* dy_sums = m == 0 && tap == 0 ? db + (size_t)split * c_out : nullptr;
    product(patches, gradient, quotient_up(last - first, K_STEP), output, m, n, dy_sums);
}
