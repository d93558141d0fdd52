// A client of Splatmend's frame server in one file: SMP/1 over TCP (docs/protocol.md).
//
//     using (var client = new Splatmend.Client(new Splatmend.ClientOptions { Port = 7879 }))
//     {
//         var color = new Splatmend.Plane("color", "rgba8") { Origin = "bl", Data = pixels };
//         var frame = new Splatmend.Frame { Width = w, Height = h, Planes = { color } };
//         Splatmend.Picture picture = null;
//         client.Submit(frame);                                // never waits, never throws
//         if (client.TryGetLatest(ref picture)) Show(picture); // else show the frame itself
//     }
//
// C# 7, .NET Standard 2.0 and later, Unity 2021 and later, Mono; no other file, no package.
//
// Threads. "smp-client" connects, sends and watches the clock; during a connection, "smp-reader"
// reads. They and the caller's threads meet in one lock. No thread holds it while it copies pixels
// or uses sockets. Dispose ends both.
//
// Memory. Pixels and headers live in buffers that are used again. Each frame makes only a few
// small objects.
//
// Trouble. If a server is away, late or wrong, every call returns false, and the caller shows its
// own frame. Counts has the reasons; LastError has the last text.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;

namespace Splatmend
{
    /// <summary>Address, mode, waiting times and references of a client.</summary>
    public sealed class ClientOptions
    {
        public string Host = "127.0.0.1";
        public int Port = 7879;

        /// <summary>"latest" for viewers that do not wait, "sync" for Restore.</summary>
        public string Mode = "latest";

        /// <summary>Longest duration of Restore.</summary>
        public double DeadlineMs = 250;

        /// <summary>Age of the oldest frame that TryGetLatest returns.</summary>
        public double MaxAgeMs = 500;

        /// <summary>Let the server remove flicker from the stream, if it can.</summary>
        public bool Temporal = true;

        /// <summary>Name of the stream in the server's figures.</summary>
        public string Stream = "";

        public string Program = "splatmend-csharp";

        /// <summary>Token, if the server asks for one.</summary>
        public string Token = "";

        /// <summary>Pictures of the person: the name of one of the server's sets.</summary>
        public string References = "";

        /// <summary>Pictures of the person: PNG and JPEG files to send to the server.</summary>
        public IList<byte[]> ReferencePictures = new byte[0][];

        /// <summary>Format and origin of the pictures; null: as in the frames.</summary>
        public string WantFormat;

        public string WantOrigin;

        /// <summary>Unanswered frames in a row before the client pauses for one second, then
        /// two, up to ten.</summary>
        public int Misses = 3;
    }

    /// <summary>Up: answers come; Probe: one frame tries the server; Bypass: the server does not
    /// answer; Down: there is no server.</summary>
    public enum ClientState
    {
        Down,
        Up,
        Probe,
        Bypass,
    }

    /// <summary>One plane of pixels; docs/protocol.md has the values of its texts.</summary>
    public sealed class Plane
    {
        public string Name;
        public string Format;

        /// <summary>Bytes from the start of one row to the next; 0: no padding.</summary>
        public int Stride;

        public string Layout = "hwc";
        public string Origin = "tl";
        public string ColorSpace = "srgb";
        public string Alpha = "opaque";
        public double[] Background;
        public string Kind = "expected";
        public double? Near;
        public double? Far;
        public string Direction = "cur_to_prev";
        public string Unit = "px";

        /// <summary>The pixels, from the start of the array.</summary>
        public byte[] Data;

        /// <summary>Or their address in memory, valid while Submit or Restore runs.</summary>
        public IntPtr Pointer;

        /// <summary>Number of bytes; 0: all of Data, or as many as the picture takes.</summary>
        public int Length;

        public Plane()
        {
        }

        public Plane(string name, string format)
        {
            Name = name;
            Format = format;
        }

        /// <summary>Number of letters before the digits: rgba16f has 4.</summary>
        internal int Channels => Format.IndexOfAny(Wire.Digits);

        internal int SampleBytes
        {
            get { return Format.IndexOf('8') >= 0 ? 1 : Format.IndexOf('6') >= 0 ? 2 : 4; }
        }

        internal bool Planar => Layout == "chw";

        internal long RowBytes(int width) => (long)width * SampleBytes * (Planar ? 1 : Channels);

        internal long Rows(int height) => (long)height * (Planar ? Channels : 1);

        internal void CopyDescription(Plane other)
        {
            Name = other.Name;
            Format = other.Format;
            Stride = other.Stride;
            Layout = other.Layout;
            Origin = other.Origin;
            ColorSpace = other.ColorSpace;
            Alpha = other.Alpha;
            Background = other.Background;
            Kind = other.Kind;
            Near = other.Near;
            Far = other.Far;
            Direction = other.Direction;
            Unit = other.Unit;
        }

        /// <summary>Check that a number of bytes can hold the plane.</summary>
        internal void CheckSize(int width, int height, long length)
        {
            long row = RowBytes(width), rows = Rows(height);
            if (Stride < row)
                throw new ProtocolException("size_mismatch", Name + ": " + width + " pixels of "
                    + Format + " take " + row + " bytes a row, stride is " + Stride);
            long least = Stride * (rows - 1) + row;
            if (length < least || length > Stride * rows)
                throw new ProtocolException("size_mismatch", Name + ": " + width + "x" + height
                    + " " + Format + " with stride " + Stride + " takes " + least + " to "
                    + Stride * rows + " bytes, got " + length);
        }
    }

    /// <summary>Pinhole camera: K is fx, fy, cx, cy in pixels; View is world to camera, row by
    /// row, OpenCV axes (x right, y down, z forward), or null.</summary>
    public sealed class Camera
    {
        public double[] K;
        public double[] View;
    }

    /// <summary>A rendered frame. It may be used again once Submit or Restore returns.</summary>
    public sealed class Frame
    {
        public int Width;
        public int Height;

        /// <summary>Nanoseconds of the caller's clock; the picture repeats it.</summary>
        public long Pts;

        /// <summary>Whether the frame starts a new scene: a new avatar, a jump.</summary>
        public bool Cut;

        /// <summary>Planes of the frame; one of them is called color.</summary>
        public List<Plane> Planes { get; } = new List<Plane>();

        public Camera Camera;

        internal string Session = "";
        internal long Id;
        internal double? MaxAgeMs;
    }

    /// <summary>A restored frame; colour only, rows unpadded.</summary>
    public sealed class Picture
    {
        public long Id = -1;
        public long Pts;
        public int Width;
        public int Height;
        public string Format;
        public string Layout;
        public string Origin;
        public string Alpha;

        /// <summary>Pixels in the first Length bytes; the array may be longer.</summary>
        public byte[] Pixels = new byte[0];

        public int Length;

        /// <summary>Age at its return, in milliseconds.</summary>
        public double AgeMs => (Came - Made) * 1e3;

        internal double Made;
        internal double Came;
    }

    /// <summary>Bytes that are not a message of SMP/1; Code is one of the protocol's.</summary>
    public sealed class ProtocolException : Exception
    {
        public readonly string Code;

        public ProtocolException(string code, string text) : base(text)
        {
            Code = code;
        }
    }

    /// <summary>Sends the frames of one stream to one server. Any thread may call any member;
    /// only the constructor throws.</summary>
    public sealed class Client : IDisposable
    {
        const double HelloSeconds = 1; // shortest time between two hellos
        const double WelcomeSeconds = 3;
        const double ConnectSeconds = 2;
        const double RefusedSeconds = 10; // a refused token or version does not change in a second
        const double LeastReclaimSeconds = 0.5;
        const int BusyMs = 20; // between looks at the clock
        const int IdleMs = 200;
        const int PollMicroseconds = 100000;
        const int SocketBytes = 4 << 20;
        const int Remembered = 64;
        const int MostSpares = 4;

        static readonly Stopwatch Clock = Stopwatch.StartNew();

        readonly object _gate = new object(); // guards all fields that are not readonly
        readonly ClientOptions _options;
        readonly Hello _hello;
        readonly Breaker _breaker;
        readonly Thread _thread;
        readonly Upload _upload;
        readonly Writer _writer = new Writer();
        readonly List<Flight> _flights = new List<Flight>();
        readonly Stack<Draft> _drafts = new Stack<Draft>();
        readonly Stack<Picture> _pictures = new Stack<Picture>();
        readonly Dictionary<string, long> _counts = new Dictionary<string, long>();
        readonly double[] _trips = new double[Remembered];
        readonly double[] _sorted = new double[Remembered];

        Welcome _welcome;
        Draft _waiting; // the newest frame not sent yet
        Picture _newest;
        long _newestId = -1;
        int _credit = 1;
        int _tripCount;
        double _slowTrip = LeastReclaimSeconds; // the first frame may warm up the server
        long _nextId;
        long _cutId = -1;
        long _lastSentId = -1;
        int _width;
        int _height;
        double _nextHello;
        double _lastSent;
        double _lastHeard;
        long _pings;
        long? _pongDue;
        bool _statsDue;
        bool _uploadDue;
        int _referencesInUse;
        string _stats;
        string _lastError = "";
        volatile bool _closing;
        volatile bool _broken;
        volatile bool _heard; // bytes came, perhaps not yet a whole message

        /// <summary>Connects in the background; the server may start later.</summary>
        /// <exception cref="ArgumentException">Options cannot be used.</exception>
        public Client(ClientOptions options = null)
        {
            _options = options = options ?? new ClientOptions();
            if (options.Mode != "latest" && options.Mode != "sync")
                throw new ArgumentException("Mode must be latest or sync, got " + options.Mode);
            if (string.IsNullOrEmpty(options.Host) || options.Port < 1 || options.Port > 65535)
                throw new ArgumentException("Host and Port (1 to 65535) must name a server, got "
                    + options.Host + ":" + options.Port);
            if (!(options.DeadlineMs > 0 && options.MaxAgeMs > 0 && options.Misses > 0))
                throw new ArgumentException("DeadlineMs, MaxAgeMs and Misses must be above 0");
            _hello = new Hello
            {
                Client = options.Program, Stream = options.Stream, Mode = options.Mode,
                MaxAgeMs = options.Mode == "sync" ? options.DeadlineMs : options.MaxAgeMs,
                Temporal = options.Temporal, Token = options.Token,
                WantFormat = options.WantFormat, WantOrigin = options.WantOrigin,
                References = options.References ?? "",
            };
            if (options.ReferencePictures.Count > 0)
                _upload = Upload.Of(options.ReferencePictures);
            _writer.Write(_hello);
            try
            {
                MessageReader.Parse(_writer.ToArray());
            }
            catch (ProtocolException error) // else it would end every connection
            {
                throw new ArgumentException(error.Message);
            }
            _breaker = new Breaker(options.Misses);
            _thread = new Thread(Run) { IsBackground = true, Name = "smp-client" };
            _thread.Start();
        }

        public ClientState State
        {
            get { lock (_gate) return CurrentState(); }
        }

        /// <summary>Name of the server's model; null without a server.</summary>
        public string Model
        {
            get { lock (_gate) return _welcome == null ? null : _welcome.Model; }
        }

        /// <summary>The last trouble in words; empty if there was none.</summary>
        public string LastError
        {
            get { lock (_gate) return _lastError; }
        }

        /// <summary>Number of ReferencePictures that the server uses.</summary>
        public int ReferencesInUse
        {
            get { lock (_gate) return _referencesInUse; }
        }

        /// <summary>Copy of the counts: frames sent, restored, not restored by reason.</summary>
        public Dictionary<string, long> Counts
        {
            get { lock (_gate) return new Dictionary<string, long>(_counts); }
        }

        /// <summary>Send a frame, unless a newer one comes before it can go. Never waits.</summary>
        /// <returns>Whether it may be sent; false if no server answers, or if the frame cannot be
        /// used (see LastError).</returns>
        public bool Submit(Frame frame) => Enqueue(frame, null, double.PositiveInfinity);

        /// <summary>Send a frame and wait for it, DeadlineMs at most.</summary>
        /// <param name="frame">The rendered frame.</param>
        /// <param name="picture">Replaced by the answer; null, or a picture of this client that
        /// is not needed any more.</param>
        /// <returns>Whether picture is that frame restored; if not, show the frame.</returns>
        public bool Restore(Frame frame, ref Picture picture)
        {
            double deadline = Now + _options.DeadlineMs / 1e3;
            bool patient = State == ClientState.Up; // do not wait for a probe
            var waiter = patient ? new Waiter() : null;
            if (!Enqueue(frame, waiter, deadline) || waiter == null) return false;
            lock (_gate)
            {
                while (!waiter.Done)
                {
                    double left = deadline - Now;
                    if (left > 0)
                    {
                        Monitor.Wait(_gate, (int)Math.Ceiling(left * 1e3));
                        continue;
                    }
                    GiveUp(waiter);
                    break;
                }
                if (waiter.Picture == null) return false;
                Recycle(picture);
                picture = waiter.Picture;
                return true;
            }
        }

        /// <summary>Get the newest restored frame. Never waits.</summary>
        /// <param name="picture">Null, or the result of the last call, which a newer picture
        /// replaces. Its Id tells them apart.</param>
        /// <returns>Whether picture may be shown: no older than MaxAgeMs, as large as the last
        /// submitted frame, and not from before its last cut.</returns>
        public bool TryGetLatest(ref Picture picture)
        {
            lock (_gate)
            {
                if (_newest != null)
                {
                    Recycle(picture);
                    picture = _newest;
                    _newest = null;
                }
                return picture != null && picture.Id >= 0 && picture.Id >= _cutId
                    && picture.Width == _width && picture.Height == _height
                    && (Now - picture.Made) * 1e3 <= _options.MaxAgeMs;
            }
        }

        /// <summary>Leave a gap in the ids for a frame that is shown but not sent.</summary>
        public void Skip()
        {
            lock (_gate) _nextId++;
        }

        /// <summary>Wait for a server; not necessary, and not for render loops.</summary>
        public bool WaitUntilUp(int timeoutMs)
        {
            double end = Now + timeoutMs / 1e3;
            lock (_gate)
            {
                while (_welcome == null && !_closing && Now < end)
                    Monitor.Wait(_gate, Math.Max(1, (int)((end - Now) * 1e3)));
                return _welcome != null;
            }
        }

        /// <summary>Get the server's figures as JSON, or null if they do not come in time. Not
        /// for render loops.</summary>
        public string Stats(int timeoutMs)
        {
            double end = Now + timeoutMs / 1e3;
            lock (_gate)
            {
                _stats = null;
                _statsDue = true;
                Monitor.PulseAll(_gate);
                while (_stats == null && !_closing && Now < end)
                    Monitor.Wait(_gate, Math.Max(1, (int)((end - Now) * 1e3)));
                return _stats;
            }
        }

        /// <summary>Say bye and end the threads.</summary>
        public void Dispose()
        {
            lock (_gate)
            {
                _closing = true;
                Monitor.PulseAll(_gate);
            }
            if (Thread.CurrentThread != _thread) _thread.Join();
        }

        static double Now => Clock.ElapsedTicks / (double)Stopwatch.Frequency;

        // Frames on their way out

        bool Enqueue(Frame frame, Waiter waiter, double deadline)
        {
            double made = Now;
            Draft draft;
            Welcome welcome;
            lock (_gate)
            {
                long id = _nextId++;
                if (frame == null) return Refuse("bad_header", "there is no frame");
                if (frame.Cut) _cutId = id;
                _width = frame.Width;
                _height = frame.Height;
                ClientState state = CurrentState();
                if (state != ClientState.Up && state != ClientState.Probe)
                    return Count(state == ClientState.Down ? "down" : "bypass");
                welcome = _welcome;
                draft = _drafts.Count > 0 ? _drafts.Pop() : new Draft();
                draft.Frame.Id = id;
                draft.CutId = _cutId;
                draft.Made = made;
                draft.Deadline = deadline;
                draft.Waiter = waiter;
            }
            string code = null, text = null;
            try
            {
                draft.Fill(frame, welcome);
            }
            catch (Exception error) // a render loop cannot use any exception
            {
                var known = error as ProtocolException;
                code = known == null ? "bad_header" : known.Code;
                text = error.Message;
            }
            lock (_gate)
            {
                if (code != null || _closing)
                {
                    Recycle(draft);
                    return code == null ? Count("closed") : Refuse(code, text);
                }
                Draft older = _waiting;
                if (older != null && older.Frame.Id > draft.Frame.Id) // another thread was faster
                {
                    older = draft;
                }
                else
                {
                    _waiting = draft;
                }
                if (older != null) Abandon(older, "superseded");
                Monitor.PulseAll(_gate);
                return true;
            }
        }

        bool Count(string why)
        {
            long count;
            _counts.TryGetValue(why, out count);
            _counts[why] = count + 1;
            return false;
        }

        bool Refuse(string code, string text)
        {
            _lastError = text;
            return Count(code);
        }

        void Abandon(Draft draft, string why)
        {
            Answer(draft.Waiter, why);
            Recycle(draft);
        }

        void Answer(Waiter waiter, string why)
        {
            Count(why);
            Finish(waiter, null);
        }

        void Finish(Waiter waiter, Picture picture)
        {
            if (waiter == null) return;
            waiter.Done = true;
            waiter.Picture = picture;
            Monitor.PulseAll(_gate);
        }

        void GiveUp(Waiter waiter)
        {
            if (_waiting != null && _waiting.Waiter == waiter)
            {
                _breaker.Missed(Now);
                Abandon(_waiting, "late");
                _waiting = null;
            }
            for (int i = _flights.Count - 1; i >= 0; i--)
                if (_flights[i].Waiter == waiter) Miss(i);
        }

        void Recycle(Draft draft)
        {
            draft.Waiter = null;
            if (_drafts.Count < MostSpares) _drafts.Push(draft);
        }

        void Recycle(Picture picture)
        {
            if (picture == null || _pictures.Count >= MostSpares) return;
            picture.Id = -1;
            _pictures.Push(picture);
        }

        ClientState CurrentState()
        {
            if (_welcome == null || _closing) return ClientState.Down;
            if (_breaker.IsClosed) return ClientState.Up;
            return _breaker.MaySend(Now) ? ClientState.Probe : ClientState.Bypass;
        }

        // The thread smp-client

        void Run()
        {
            while (!_closing)
            {
                _nextHello = Now + HelloSeconds;
                Socket socket = null;
                try
                {
                    socket = Connect();
                    if (socket != null) Converse(socket);
                }
                catch (Exception error)
                {
                    lock (_gate) _lastError = error.Message;
                }
                finally
                {
                    if (socket != null) socket.Close();
                }
                lock (_gate)
                {
                    LoseSession();
                    while (!_closing && Now < _nextHello)
                        Monitor.Wait(_gate, Math.Max(1, (int)((_nextHello - Now) * 1e3)));
                }
            }
        }

        /// <returns>Null if the server cannot be reached.</returns>
        Socket Connect()
        {
            IPAddress address;
            if (!IPAddress.TryParse(_options.Host, out address))
            {
                IPAddress[] all = Dns.GetHostAddresses(_options.Host);
                address = Array.Find(all, a => a.AddressFamily == AddressFamily.InterNetwork)
                    ?? all[0];
            }
            var socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp)
            {
                Blocking = false, NoDelay = true,
                SendBufferSize = SocketBytes, ReceiveBufferSize = SocketBytes,
            };
            try
            {
                socket.Connect(new IPEndPoint(address, _options.Port));
            }
            catch (SocketException) // the connection takes a while; Poll waits for it
            {
            }
            double end = Now + ConnectSeconds;
            while (!_closing && Now < end)
            {
                if (!socket.Poll(PollMicroseconds, SelectMode.SelectWrite)) continue;
                object error = socket.GetSocketOption(SocketOptionLevel.Socket,
                    SocketOptionName.Error);
                if ((int)error == 0 && socket.Connected) return socket;
                break;
            }
            socket.Close();
            lock (_gate) _lastError = "no server at " + _options.Host + ":" + _options.Port;
            return null;
        }

        void Converse(Socket socket)
        {
            _broken = false;
            _lastHeard = Now;
            var reader = new Thread(() => ReadAll(socket))
            {
                IsBackground = true, Name = "smp-reader",
            };
            reader.Start();
            try
            {
                _writer.Write(_hello);
                bool sent = Send(socket);
                while (sent && !_broken && !_closing) sent = SendNext(socket);
                if (sent && _closing && !_broken)
                {
                    _writer.WriteBye(_welcome == null ? "" : _welcome.Session);
                    Send(socket);
                }
            }
            finally
            {
                _broken = true;
                try
                {
                    socket.Shutdown(SocketShutdown.Both); // wakes the reader
                }
                catch (SocketException)
                {
                    // the socket is broken already
                }
                reader.Join();
            }
        }

        /// <returns>False if the connection broke.</returns>
        bool SendNext(Socket socket)
        {
            Draft draft = null;
            Plane upload = null;
            lock (_gate)
            {
                double now = Now;
                if (_heard) _lastHeard = now;
                _heard = false;
                Expire(now);
                if (IsSilent(now))
                {
                    _lastError = "the server says nothing";
                    return false;
                }
                if (_pongDue != null)
                {
                    _writer.WriteNumbered("pong", _pongDue.Value);
                    _pongDue = null;
                }
                else if (_statsDue && _welcome != null)
                {
                    _writer.WriteStats();
                    _statsDue = false;
                }
                else if (_uploadDue && _welcome != null)
                {
                    _upload.Session = _welcome.Session;
                    _writer.Write(_upload);
                    upload = _upload.Planes[0];
                    _uploadDue = false;
                }
                else if ((draft = TakeNext(now)) != null)
                {
                    _writer.Write(draft.Frame);
                }
                else if (_welcome != null && now - _lastSent > _welcome.HeartbeatMs / 1e3)
                {
                    _writer.WriteNumbered("ping", _pings++);
                }
                else
                {
                    Monitor.Wait(_gate, _flights.Count > 0 ? BusyMs : IdleMs);
                    return true;
                }
            }
            bool sent = Send(socket);
            if (upload != null && sent) sent = SendBytes(socket, upload.Data, upload.Length);
            for (int i = 0; draft != null && sent && i < draft.Frame.Planes.Count; i++)
                sent = SendBytes(socket, draft.Frame.Planes[i].Data, draft.Frame.Planes[i].Length);
            if (draft != null)
                lock (_gate) Recycle(draft);
            return sent;
        }

        bool IsSilent(double now)
        {
            double limit = _welcome == null
                ? WelcomeSeconds
                : Math.Max(3 * _welcome.HeartbeatMs / 1e3, 2 * WelcomeSeconds);
            return now - _lastHeard > limit;
        }

        /// <summary>Take the waiting frame if it may be sent now; it then counts as sent.</summary>
        Draft TakeNext(double now)
        {
            Draft draft = _waiting;
            if (draft == null || _welcome == null || _flights.Count >= _credit) return null;
            _waiting = null;
            if (now > draft.Deadline)
            {
                _breaker.Missed(now);
                Abandon(draft, "late");
                return null;
            }
            if (!_breaker.MaySend(now))
            {
                Abandon(draft, "bypass");
                return null;
            }
            Frame frame = draft.Frame;
            frame.Session = _welcome.Session;
            frame.Cut = draft.CutId > _lastSentId;
            _lastSentId = frame.Id;
            _flights.Add(new Flight
            {
                Id = frame.Id, Width = frame.Width, Height = frame.Height, Made = draft.Made,
                Sent = now, Deadline = draft.Deadline, Waiter = draft.Waiter,
            });
            _breaker.Sent();
            Count("sent");
            return draft;
        }

        bool Send(Socket socket) => SendBytes(socket, _writer.Bytes, _writer.Length, _writer.Start);

        bool SendBytes(Socket socket, byte[] data, int end, int at = 0)
        {
            double moved = Now;
            while (at < end)
            {
                SocketError error;
                int count = socket.Send(data, at, end - at, SocketFlags.None, out error);
                if (error == SocketError.Success && count > 0)
                {
                    at += count;
                    moved = Now;
                    continue;
                }
                bool full = error == SocketError.WouldBlock
                    || error == SocketError.NoBufferSpaceAvailable
                    || error == SocketError.IOPending;
                if (!full || _broken || _closing || Now - moved > WelcomeSeconds) return false;
                socket.Poll(PollMicroseconds, SelectMode.SelectWrite);
            }
            _lastSent = Now;
            return true;
        }

        /// <summary>Count late frames; take back the credit of frames that never came.</summary>
        void Expire(double now)
        {
            double limit = Math.Max(4 * _slowTrip, LeastReclaimSeconds);
            for (int i = _flights.Count - 1; i >= 0; i--)
            {
                Flight flight = _flights[i];
                bool lost = now - flight.Sent > limit;
                if (!lost && now <= flight.Deadline) continue;
                Miss(i);
                if (lost) _flights.Remove(flight);
            }
        }

        /// <summary>Count a frame as missed, once.</summary>
        void Miss(int index)
        {
            Flight flight = _flights[index];
            if (!flight.Missed)
            {
                flight.Missed = true;
                _breaker.Missed(Now);
                Answer(flight.Waiter, "late");
                flight.Waiter = null;
            }
            if (!_breaker.IsClosed) _flights.RemoveAt(index); // makes room for the probe
        }

        void LoseSession()
        {
            _welcome = null;
            _lastSentId = -1;
            _uploadDue = false;
            _referencesInUse = 0;
            foreach (Flight flight in _flights)
                if (!flight.Missed) Answer(flight.Waiter, "down");
            _flights.Clear();
            if (_waiting != null) Abandon(_waiting, "down");
            _waiting = null;
        }

        // The thread smp-reader

        void ReadAll(Socket socket)
        {
            var message = new Message();
            var reader = new MessageReader((into, count) => Receive(socket, into, count));
            try
            {
                while (!_broken)
                {
                    ProtocolException problem = reader.Read(message);
                    lock (_gate)
                    {
                        if (problem != null) Refuse("unreadable", problem.Message);
                        else Act(message);
                    }
                }
            }
            catch (Exception error)
            {
                lock (_gate)
                    if (!_closing && !_broken) _lastError = error.Message;
            }
            lock (_gate)
            {
                _broken = true;
                Monitor.PulseAll(_gate);
            }
        }

        void Receive(Socket socket, byte[] into, int count)
        {
            int at = 0;
            while (at < count)
            {
                SocketError error;
                int got = socket.Receive(into, at, count - at, SocketFlags.None, out error);
                if (error == SocketError.Success && got > 0)
                {
                    at += got;
                    _heard = true;
                    continue;
                }
                if (error != SocketError.WouldBlock && error != SocketError.IOPending || _broken)
                    throw new EndOfStreamException("the server has closed the connection");
                socket.Poll(PollMicroseconds, SelectMode.SelectRead);
            }
        }

        void Act(Message message)
        {
            bool ours = _welcome != null && message.Session == _welcome.Session;
            switch (message.Type)
            {
                case "welcome":
                    _welcome = message.Welcome;
                    _credit = message.Credit;
                    _breaker.Answered();
                    OfferReferences();
                    Monitor.PulseAll(_gate);
                    break;
                case "references":
                    if (ours) _referencesInUse = message.Upload.Count ?? 0;
                    break;
                case "ping":
                    _pongDue = message.Number;
                    Monitor.PulseAll(_gate);
                    break;
                case "stats":
                    _stats = message.Values;
                    Monitor.PulseAll(_gate);
                    break;
                case "bye":
                    if (ours) _broken = true;
                    break;
                case "result":
                case "drop":
                    if (ours) Settle(message);
                    break;
                case "error":
                    if (ours || message.Session.Length == 0) Settle(message);
                    break;
            }
        }

        void OfferReferences()
        {
            _uploadDue = _upload != null && _upload.Pictures.Count <= _welcome.MaxReferences
                && _upload.Planes[0].Length <= _welcome.MaxPartBytes;
            if (_upload != null && !_uploadDue)
                _lastError = "the server takes at most " + _welcome.MaxReferences + " reference "
                    + "pictures and " + _welcome.MaxPartBytes + " bytes, got "
                    + _upload.Pictures.Count + " and " + _upload.Planes[0].Length;
            else if (_upload == null && _hello.References.Length > 0
                && _welcome.References != _hello.References)
                _lastError = "the server is too old to have sets of references";
        }

        void Settle(Message message)
        {
            Flight flight = message.HasId ? Land(message.Id) : null;
            Waiter waiter = flight == null ? null : flight.Waiter;
            bool error = message.Type == "error";
            if (error)
            {
                _lastError = message.Code + ": " + message.Text;
                if (message.Fatal || message.Code == "no_session" || _welcome == null)
                {
                    _broken = true;
                    bool refused = message.Code == "auth" || message.Code == "version"
                        || message.Code == "unsupported";
                    double pause = refused ? RefusedSeconds : message.RetryMs / 1e3;
                    _nextHello = Math.Max(_nextHello, Now + pause);
                }
            }
            if (flight == null) // given up before, or never ours: do not show it
            {
                if (!error) Count("unasked");
            }
            else if (message.Type == "result")
            {
                NoteTrip(Now - flight.Sent);
                if (!flight.Missed) _breaker.Answered(); // a late answer still counts as a miss
                Show(flight, message);
            }
            else
            {
                if (error || message.Why == "stale" || message.Why == "busy")
                    _breaker.Missed(Now);
                Answer(waiter, error ? message.Code : message.Why);
            }
            Monitor.PulseAll(_gate); // there is credit
        }

        Flight Land(long id)
        {
            for (int i = 0; i < _flights.Count; i++)
            {
                Flight flight = _flights[i];
                if (flight.Id != id) continue;
                _flights.RemoveAt(i);
                return flight;
            }
            return null;
        }

        void Show(Flight flight, Message message)
        {
            Frame frame = message.Frame;
            if (!message.Applied || frame.Width != flight.Width || frame.Height != flight.Height)
            {
                Answer(flight.Waiter, message.Applied ? "unreadable" : "unchanged");
                return;
            }
            Count("restored");
            if (flight.Waiter == null && flight.Id <= _newestId) return;
            Picture picture = _pictures.Count > 0 ? _pictures.Pop() : new Picture();
            Plane color = frame.Planes.Find(Wire.IsColor);
            byte[] spare = picture.Pixels;
            picture.Pixels = color.Data;
            color.Data = spare; // the reader goes on with the other buffer
            picture.Length = color.Length;
            picture.Id = flight.Id;
            picture.Pts = frame.Pts;
            picture.Width = frame.Width;
            picture.Height = frame.Height;
            picture.Format = color.Format;
            picture.Layout = color.Layout;
            picture.Origin = color.Origin;
            picture.Alpha = color.Alpha;
            picture.Made = flight.Made;
            picture.Came = Now;
            if (flight.Waiter != null)
            {
                Finish(flight.Waiter, picture);
                return;
            }
            Recycle(_newest);
            _newest = picture;
            _newestId = picture.Id;
        }

        void NoteTrip(double seconds)
        {
            _trips[_tripCount++ % Remembered] = seconds;
            int count = Math.Min(_tripCount, Remembered);
            Array.Copy(_trips, _sorted, count);
            Array.Sort(_sorted, 0, count);
            _slowTrip = _sorted[count * 95 / 100];
        }

        sealed class Waiter
        {
            public bool Done;
            public Picture Picture;
        }

        sealed class Flight
        {
            public long Id;
            public int Width;
            public int Height;
            public double Made;
            public double Sent;
            public double Deadline;
            public bool Missed;
            public Waiter Waiter;
        }

        /// <summary>A frame in the client's own memory.</summary>
        sealed class Draft
        {
            public readonly Frame Frame = new Frame();
            public long CutId;
            public double Made;
            public double Deadline;
            public Waiter Waiter;

            readonly Stack<Plane> _spares = new Stack<Plane>();

            /// <summary>Copy the planes that the server uses, and check them like it.</summary>
            public void Fill(Frame from, Welcome welcome)
            {
                Frame.Width = from.Width;
                Frame.Height = from.Height;
                Frame.Pts = from.Pts;
                Frame.Camera = from.Camera;
                foreach (Plane plane in Frame.Planes) _spares.Push(plane);
                Frame.Planes.Clear();
                if (from.Width > welcome.MaxWidth || from.Height > welcome.MaxHeight)
                    throw new ProtocolException("too_large", "the server takes up to "
                        + welcome.MaxWidth + "x" + welcome.MaxHeight + ", got " + from.Width + "x"
                        + from.Height);
                foreach (Plane plane in from.Planes)
                {
                    bool color = plane.Name == "color" || plane.Name == "alpha";
                    if (!color && Array.IndexOf(welcome.Uses, plane.Name) < 0) continue;
                    Plane own = _spares.Count > 0 ? _spares.Pop() : new Plane();
                    Frame.Planes.Add(own);
                    own.CopyDescription(plane);
                    Copy(plane, own, welcome);
                }
                Wire.Check(Frame);
            }

            void Copy(Plane from, Plane to, Welcome welcome)
            {
                Wire.Check(to);
                if (to.Stride == 0) to.Stride = checked((int)to.RowBytes(Frame.Width));
                long full = to.Stride * to.Rows(Frame.Height);
                long length = from.Length > 0 ? from.Length
                    : from.Pointer != IntPtr.Zero ? full
                    : from.Data == null ? 0 : from.Data.Length;
                to.CheckSize(Frame.Width, Frame.Height, length);
                if (length > welcome.MaxPartBytes)
                    throw new ProtocolException("too_large", "the server takes up to "
                        + welcome.MaxPartBytes + " bytes a plane, got " + length);
                to.Length = (int)length;
                if (to.Data == null || to.Data.Length < to.Length) to.Data = new byte[to.Length];
                if (from.Pointer != IntPtr.Zero)
                    Marshal.Copy(from.Pointer, to.Data, 0, to.Length);
                else
                    Buffer.BlockCopy(from.Data, 0, to.Data, 0, to.Length);
            }
        }
    }

    /// <summary>A circuit breaker for a server that does not answer.</summary>
    internal sealed class Breaker
    {
        const double Shortest = 1;
        const double Longest = 10;

        readonly int _allowed;
        int _misses;
        double _pause;
        double? _opened;
        bool _probing;

        public Breaker(int missesAllowed)
        {
            _allowed = missesAllowed;
        }

        public bool IsClosed => _opened == null;

        public bool MaySend(double now) =>
            _opened == null || (!_probing && now - _opened.Value >= _pause);

        public void Sent() => _probing = _opened != null;

        public void Answered()
        {
            _misses = 0;
            _pause = 0;
            _opened = null;
            _probing = false;
        }

        public void Missed(double now)
        {
            _misses++;
            if (!_probing && (_opened != null || _misses < _allowed)) return;
            _pause = Math.Min(Math.Max(2 * _pause, Shortest), Longest);
            _opened = now;
            _probing = false;
        }
    }

    // The messages

    internal sealed class Hello
    {
        public long[] Versions = { 1 };
        public string Client = "";
        public string Stream = "";
        public string Mode = "latest";
        public double? MaxAgeMs;
        public bool Temporal = true;
        public string WantFormat;
        public string WantLayout;
        public string WantOrigin;
        public string Token = "";
        public string References = "";
    }

    /// <summary>Reference pictures on their way to a server, or its answer.</summary>
    internal sealed class Upload
    {
        public string Session = "";
        public string Kind = "pictures";
        public readonly List<ReferencePicture> Pictures = new List<ReferencePicture>();

        /// <summary>One part with the bytes of all pictures, or none.</summary>
        public readonly List<Plane> Planes = new List<Plane>();

        public int? Count;

        /// <exception cref="ArgumentException">A file is neither PNG nor JPEG.</exception>
        public static Upload Of(IList<byte[]> files)
        {
            var upload = new Upload();
            var whole = new MemoryStream();
            foreach (byte[] file in files)
            {
                bool png = file.Length > 8 && file[0] == 0x89 && file[1] == 'P';
                if (!png && !(file.Length > 8 && file[0] == 0xff && file[1] == 0xd8))
                    throw new ArgumentException("ReferencePictures are PNG or JPEG files");
                upload.Pictures.Add(new ReferencePicture
                {
                    Format = png ? "png" : "jpeg", Bytes = file.Length,
                });
                whole.Write(file, 0, file.Length);
            }
            upload.Planes.Add(new Plane { Data = whole.ToArray(), Length = (int)whole.Length });
            return upload;
        }
    }

    internal struct ReferencePicture
    {
        public string Format;
        public long Bytes;

        /// <summary>Pixels, of rgb8 and rgba8 only.</summary>
        public long Width;

        public long Height;
    }

    internal sealed class Welcome
    {
        public long Version;
        public string Session;
        public long MaxPartBytes;
        public int MaxWidth;
        public int MaxHeight;
        public string[] InFormats;
        public string[] PlaneNames;
        public string[] Uses;
        public bool Stateful;
        public string Model;
        public double HeartbeatMs;
        public string References;
        public int MaxReferences;
    }

    /// <summary>Any message; Type decides which fields have a meaning. The reader uses one object
    /// again and again, so a stream of results makes no garbage.</summary>
    internal sealed class Message
    {
        public string Type;
        public string Session = "";
        public bool HasId;
        public long Id;
        public int Credit;
        public string Model = "";
        public string Why = "";
        public string Code;
        public string Text;
        public bool Fatal;
        public double RetryMs;
        public bool Applied;
        public double QueueMs;
        public double ProcMs;
        public long Number;

        /// <summary>Figures of stats as JSON; null in a question.</summary>
        public string Values;

        public Hello Hello;
        public Welcome Welcome;
        public Upload Upload;

        /// <summary>Size and planes of a frame or a result.</summary>
        public readonly Frame Frame = new Frame();

        internal readonly Plane[] Pool = { new Plane(), new Plane(), new Plane(), new Plane(),
            new Plane() };
    }

    /// <summary>The values that the protocol knows, and rules that go beyond one field.</summary>
    internal static class Wire
    {
        public const long MostId = (1L << 53) - 1;
        public const int MostPlanes = 5;
        public const int MostHeaderBytes = 1 << 16;
        public const long MostPartBytes = 1L << 30;
        public const int MostSide = 1 << 16;
        public const int LongestText = 256;
        public const int MostReferences = 64;
        public const double DayMs = 86400000;

        public static readonly char[] Digits = "0123456789".ToCharArray();
        public static readonly Predicate<Plane> IsColor = plane => plane.Name == "color";

        public static readonly string[] Types = { "result", "pong", "drop", "error", "welcome",
            "ping", "stats", "bye", "references", "hello", "frame" };
        public static readonly string[] Modes = { "latest", "sync", "ordered" };
        public static readonly string[] Reasons = { "superseded", "stale", "busy", "shutdown" };
        public static readonly string[] Codes = { "version", "auth", "no_session", "busy",
            "bad_header", "unsupported", "size_mismatch", "too_large", "internal" };
        public static readonly string[] Names = { "color", "alpha", "depth", "motion", "mask" };
        public static readonly string[] ColorFormats = { "rgb8", "bgr8", "rgba8", "bgra8",
            "rgb16", "rgba16", "rgb16f", "rgba16f", "rgb32f", "rgba32f" };
        public static readonly string[][] Formats = { ColorFormats,
            new[] { "r8", "r16", "r16f", "r32f" }, new[] { "r16f", "r32f" },
            new[] { "rg16f", "rg32f" }, new[] { "r8" } };
        public static readonly string[] PictureFormats = { "png", "jpeg", "rgb8", "rgba8" };
        public static readonly string[] ReferenceKinds = { "pictures", "pairs" };
        public static readonly string[] Layouts = { "hwc", "chw" };
        public static readonly string[] Origins = { "tl", "bl" };
        public static readonly string[] ColorSpaces = { "srgb", "linear" };
        public static readonly string[] AlphaKinds = { "opaque", "premul", "straight" };
        public static readonly string[] DepthKinds = { "expected", "accumulated", "ray",
            "inverse" };
        public static readonly string[] Directions = { "cur_to_prev", "prev_to_cur" };
        public static readonly string[] Units = { "px", "uv", "ndc" };

        public static ProtocolException Bad(string text) =>
            new ProtocolException("bad_header", text);

        /// <summary>Check the texts of a plane that did not come from the parser.</summary>
        public static void Check(Plane plane)
        {
            Require("n", plane.Name, Names);
            Require("fmt", plane.Format, Formats[Array.IndexOf(Names, plane.Name)]);
            Require("layout", plane.Layout, Layouts);
            Require("origin", plane.Origin, Origins);
            Require("cs", plane.ColorSpace, ColorSpaces);
            Require("alpha", plane.Alpha, AlphaKinds);
            Require("kind", plane.Kind, DepthKinds);
            Require("dir", plane.Direction, Directions);
            Require("unit", plane.Unit, Units);
            if (plane.Background != null) CheckNumbers("bg", plane.Background, 3);
        }

        static void Require(string key, string value, string[] allowed)
        {
            if (Array.IndexOf(allowed, value) < 0)
                throw Bad(key + " must be one of " + string.Join(", ", allowed) + ", got "
                    + (value ?? "nothing"));
        }

        /// <summary>Check a frame whose planes have been checked.</summary>
        public static void Check(Frame frame)
        {
            if (frame.Width < 1 || frame.Height < 1)
                throw Bad("Width and Height must be above 0, got " + frame.Width + "x"
                    + frame.Height);
            CheckOnce(frame.Planes);
            Plane color = frame.Planes.Find(IsColor);
            if (color == null) throw Bad("a frame needs a plane called color");
            bool apart = false, fourth = color.Channels == 4;
            foreach (Plane plane in frame.Planes) apart |= plane.Name == "alpha";
            if (color.Alpha == "opaque" && apart)
                throw Bad("with a plane called alpha, color must say premul or straight");
            if (color.Alpha != "opaque" && apart == fourth)
                throw Bad("color says alpha " + color.Alpha + ": send it as a fourth channel or as "
                    + "a plane called alpha, not " + (fourth ? "both" : "neither"));
            if (frame.Camera == null) return;
            CheckNumbers("cam.K", frame.Camera.K, 4);
            if (frame.Camera.View != null) CheckNumbers("cam.view", frame.Camera.View, 16);
            if (!(frame.Camera.K[0] > 0 && frame.Camera.K[1] > 0))
                throw Bad("cam.K needs positive focal lengths");
        }

        public static void CheckOnce(List<Plane> planes)
        {
            for (int i = 1; i < planes.Count; i++)
                for (int j = 0; j < i; j++)
                    if (planes[i].Name == planes[j].Name)
                        throw Bad("a plane may come once, got " + planes[i].Name + " twice");
        }

        static void CheckNumbers(string key, double[] values, int count)
        {
            bool good = values != null && values.Length == count;
            for (int i = 0; good && i < count; i++)
                good = !double.IsNaN(values[i]) && !double.IsInfinity(values[i]);
            if (!good) throw Bad(key + " must be " + count + " finite numbers");
        }
    }

    /// <summary>Reads messages from a source of bytes.</summary>
    internal sealed class MessageReader
    {
        readonly Action<byte[], int> _read;
        readonly byte[] _head = new byte[4 * (2 + 1 + Wire.MostPlanes)];
        readonly byte[] _skipped = new byte[1 << 16];
        readonly int[] _lengths = new int[1 + Wire.MostPlanes];
        readonly Json _json = new Json();
        byte[] _header = new byte[1024];

        /// <param name="read">Fills the first bytes of an array, or throws.</param>
        public MessageReader(Action<byte[], int> read)
        {
            _read = read;
        }

        /// <summary>Read one whole message.</summary>
        /// <exception cref="ProtocolException">The bytes are not a message.</exception>
        public static Message Parse(byte[] bytes)
        {
            int at = 0;
            var reader = new MessageReader((into, count) =>
            {
                if (count > bytes.Length - at)
                    throw new ProtocolException("size_mismatch", "the message ends after "
                        + bytes.Length + " bytes, more were announced");
                Buffer.BlockCopy(bytes, at, into, 0, count);
                at += count;
            });
            var message = new Message();
            ProtocolException problem = reader.Read(message);
            if (problem != null) throw problem;
            if (at != bytes.Length)
                throw new ProtocolException("size_mismatch", (bytes.Length - at)
                    + " bytes follow the message");
            return message;
        }

        /// <returns>The error in the header; null if all is well. The next message may be read
        /// in both cases.</returns>
        /// <exception cref="ProtocolException">The stream is out of step: close it.</exception>
        public ProtocolException Read(Message message)
        {
            int count = ReadLengths();
            if (_header.Length < _lengths[0]) _header = new byte[Wire.MostHeaderBytes];
            _read(_header, _lengths[0]);
            ProtocolException problem = null;
            try
            {
                ReadHeader(message, count - 1);
            }
            catch (ProtocolException error)
            {
                problem = error;
            }
            for (int i = 1; i < count; i++)
            {
                if (problem != null)
                    Skip(_lengths[i]);
                else
                    ReadPlane(message.Frame.Planes[i - 1], _lengths[i]);
            }
            return problem;
        }

        int ReadLengths()
        {
            _read(_head, 8);
            if (_head[0] != 'S' || _head[1] != 'M' || _head[2] != 'P' || _head[3] != '1')
                throw Wire.Bad("a message starts with SMP1");
            long count = Unsigned(4);
            if (count < 1 || count > 1 + Wire.MostPlanes)
                throw Wire.Bad("a message has a header and at most " + Wire.MostPlanes
                    + " planes, got " + count + " parts");
            _read(_head, 4 * (int)count);
            for (int i = 0; i < count; i++)
            {
                long length = Unsigned(4 * i), most = i == 0 ? Wire.MostHeaderBytes
                    : Wire.MostPartBytes;
                if (length > most)
                    throw new ProtocolException("too_large", "part " + i + " has " + length
                        + " bytes, at most " + most + " are taken");
                _lengths[i] = (int)length;
            }
            return (int)count;
        }

        long Unsigned(int at) =>
            (uint)(_head[at] | _head[at + 1] << 8 | _head[at + 2] << 16 | _head[at + 3] << 24);

        void Skip(int length)
        {
            for (int count; length > 0; length -= count)
                _read(_skipped, count = Math.Min(length, _skipped.Length));
        }

        void ReadPlane(Plane plane, int length)
        {
            plane.Length = length;
            if (plane.Data == null || plane.Data.Length < length) plane.Data = new byte[length];
            _read(plane.Data, length);
        }

        void ReadHeader(Message m, int planes)
        {
            _json.Parse(_header, _lengths[0]);
            m.Type = _json.Choice(0, "t", Wire.Types);
            if (planes > 0 && m.Type != "frame" && m.Type != "result" && m.Type != "references")
                throw Wire.Bad("a " + m.Type + " message has no planes");
            switch (m.Type)
            {
                case "hello":
                    ReadHello(m);
                    break;
                case "welcome":
                    ReadWelcome(m);
                    break;
                case "frame":
                    ReadFrame(m, planes);
                    break;
                case "result":
                    ReadResult(m, planes);
                    break;
                case "drop":
                    m.Session = _json.Text(0, "session", "", m.Session);
                    ReadId(m);
                    m.Why = _json.Choice(0, "why", Wire.Reasons);
                    m.Credit = ReadCredit();
                    break;
                case "error":
                    ReadError(m);
                    break;
                case "references":
                    ReadReferences(m, planes);
                    break;
                case "stats":
                    m.Values = _json.Source(0, "values");
                    break;
                case "bye":
                    m.Session = _json.Text(0, "session", "", m.Session);
                    m.Why = _json.Text(0, "why", "", m.Why);
                    break;
                default:
                    m.Number = _json.Integer(0, "n", 0, Wire.MostId, 0);
                    break;
            }
        }

        void ReadId(Message m)
        {
            m.Id = _json.Integer(0, "id", 0, Wire.MostId);
            m.HasId = true;
        }

        int ReadCredit() => (int)_json.Integer(0, "credit", 1, 1 << 16);

        double? ReadAge()
        {
            if (!_json.Has(0, "max_age_ms")) return null;
            return _json.Number(0, "max_age_ms", 0, Wire.DayMs);
        }

        void ReadHello(Message m)
        {
            var hello = m.Hello = new Hello
            {
                Versions = _json.Integers(0, "v", 0, Wire.MostId),
                Client = _json.Text(0, "client", ""), Stream = _json.Text(0, "stream", ""),
                Mode = _json.Choice(0, "mode", Wire.Modes, "latest"), MaxAgeMs = ReadAge(),
                Temporal = _json.Flag(0, "temporal", true), Token = _json.Text(0, "token", ""),
                References = _json.Text(0, "references", ""),
            };
            if (!_json.Has(0, "want")) return;
            int want = _json.Object(0, "want");
            if (_json.Has(want, "fmt"))
                hello.WantFormat = _json.Choice(want, "fmt", Wire.ColorFormats);
            if (_json.Has(want, "layout"))
                hello.WantLayout = _json.Choice(want, "layout", Wire.Layouts);
            if (_json.Has(want, "origin"))
                hello.WantOrigin = _json.Choice(want, "origin", Wire.Origins);
        }

        void ReadWelcome(Message m)
        {
            long[] sides = _json.Integers(0, "max_wh", 1, 1 << 20);
            if (sides.Length != 2) throw Wire.Bad("max_wh must be width and height");
            m.Credit = ReadCredit();
            m.Session = _json.Text(0, "session", null, m.Session);
            m.Welcome = new Welcome
            {
                Version = _json.Integer(0, "v", 0, Wire.MostId), Session = m.Session,
                MaxPartBytes = _json.Integer(0, "max_part_bytes", 1, long.MaxValue),
                MaxWidth = (int)sides[0], MaxHeight = (int)sides[1],
                InFormats = _json.Texts(0, "in_fmts"), PlaneNames = _json.Texts(0, "planes"),
                Uses = _json.Texts(0, "uses"), Stateful = _json.Flag(0, "stateful", false),
                Model = _json.Text(0, "model", ""),
                HeartbeatMs = _json.Number(0, "hb_ms", 1, Wire.DayMs, 2000),
                References = _json.Text(0, "references", ""),
                MaxReferences = (int)_json.Integer(0, "max_references", 0, Wire.MostReferences, 0),
            };
        }

        void ReadError(Message m)
        {
            m.Code = _json.Choice(0, "code", Wire.Codes);
            m.Text = _json.Text(0, "msg", "");
            m.Session = _json.Text(0, "session", "", m.Session);
            m.HasId = false;
            if (_json.Has(0, "id")) ReadId(m);
            m.Fatal = _json.Flag(0, "fatal", false);
            m.RetryMs = _json.Number(0, "retry_ms", 0, Wire.DayMs, 0);
            m.Credit = _json.Has(0, "credit") ? ReadCredit() : 0;
        }

        void ReadReferences(Message m, int planes)
        {
            var upload = m.Upload = new Upload();
            upload.Kind = _json.Choice(0, "kind", Wire.ReferenceKinds, "pictures");
            int list = _json.Objects(0, "pictures", Wire.MostReferences);
            long described = 0, came = 0;
            if (list >= 0)
                for (int i = list + 1; i < _json.After(list); i = _json.After(i))
                {
                    upload.Pictures.Add(ReadPicture(i));
                    described += upload.Pictures[upload.Pictures.Count - 1].Bytes;
                }
            if (upload.Kind == "pairs" && upload.Pictures.Count % 2 > 0)
                throw Wire.Bad("pairs are a render and its truth in turn");
            for (int i = 1; i <= planes; i++) came += _lengths[i];
            if (planes != Math.Min(upload.Pictures.Count, 1) || came != described)
                throw new ProtocolException("size_mismatch", "pictures of " + described
                    + " bytes are described, " + came + " follow in " + planes + " planes");
            if (_json.Has(0, "count"))
                upload.Count = (int)_json.Integer(0, "count", 0, Wire.MostReferences);
            upload.Session = m.Session = _json.Text(0, "session", "", m.Session);
            m.Frame.Planes.Clear();
            if (planes > 0) m.Frame.Planes.Add(m.Pool[0]);
        }

        ReferencePicture ReadPicture(int o)
        {
            var picture = new ReferencePicture
            {
                Format = _json.Choice(o, "fmt", Wire.PictureFormats),
                Bytes = _json.Integer(o, "bytes", 1, 1L << 31),
            };
            if (picture.Format == "png" || picture.Format == "jpeg") return picture;
            picture.Width = _json.Integer(o, "w", 1, 1 << 20);
            picture.Height = _json.Integer(o, "h", 1, 1 << 20);
            long size = picture.Width * picture.Height * (picture.Format == "rgb8" ? 3 : 4);
            if (size != picture.Bytes)
                throw new ProtocolException("size_mismatch", picture.Width + "x" + picture.Height
                    + " " + picture.Format + " takes " + size + " bytes, got " + picture.Bytes);
            return picture;
        }

        void ReadFrame(Message m, int planes)
        {
            ReadSidesAndPlanes(m, planes);
            Frame frame = m.Frame;
            frame.Session = m.Session = _json.Text(0, "session", "", m.Session);
            ReadId(m);
            frame.Id = m.Id;
            frame.Cut = _json.Flag(0, "cut", false);
            frame.MaxAgeMs = ReadAge();
            frame.Camera = null;
            if (_json.Has(0, "cam"))
            {
                int cam = _json.Object(0, "cam");
                frame.Camera = new Camera { K = _json.Numbers(cam, "K", 4) };
                if (_json.Has(cam, "view")) frame.Camera.View = _json.Numbers(cam, "view", 16);
            }
            Wire.Check(frame);
        }

        void ReadResult(Message m, int planes)
        {
            ReadSidesAndPlanes(m, planes);
            m.Applied = _json.Flag(0, "applied", true);
            if (m.Applied && m.Frame.Planes.Find(Wire.IsColor) == null)
                throw Wire.Bad("a result that was applied has a plane called color");
            m.QueueMs = m.ProcMs = 0;
            if (_json.Has(0, "srv_ms"))
            {
                int times = _json.Object(0, "srv_ms");
                m.QueueMs = _json.Number(times, "queue", 0, Wire.DayMs, 0);
                m.ProcMs = _json.Number(times, "proc", 0, Wire.DayMs, 0);
            }
            m.Session = _json.Text(0, "session", "", m.Session);
            ReadId(m);
            m.Credit = ReadCredit();
            m.Model = _json.Text(0, "model", "", m.Model);
        }

        void ReadSidesAndPlanes(Message m, int count)
        {
            Frame frame = m.Frame;
            frame.Planes.Clear();
            long width = _json.Integer(0, "w", 1, 1 << 20);
            long height = _json.Integer(0, "h", 1, 1 << 20);
            if (Math.Max(width, height) > Wire.MostSide)
                throw new ProtocolException("too_large", "sides up to " + Wire.MostSide
                    + " pixels are taken, got " + width + "x" + height);
            frame.Width = (int)width;
            frame.Height = (int)height;
            frame.Pts = _json.Integer(0, "pts", long.MinValue, long.MaxValue, 0);
            int list = _json.Objects(0, "planes", Wire.MostPlanes), described = 0;
            if (list >= 0)
                for (int i = list + 1; i < _json.After(list); i = _json.After(i))
                    frame.Planes.Add(ReadDescription(i, m.Pool[described++]));
            if (described != count)
                throw new ProtocolException("size_mismatch", described
                    + " planes are described and " + count + " follow");
            Wire.CheckOnce(frame.Planes);
            for (int i = 0; i < count; i++)
                frame.Planes[i].CheckSize(frame.Width, frame.Height, _lengths[i + 1]);
        }

        Plane ReadDescription(int o, Plane plane)
        {
            plane.Name = _json.Choice(o, "n", Wire.Names);
            plane.Format = _json.Choice(o, "fmt", Wire.Formats[Array.IndexOf(Wire.Names,
                plane.Name)]);
            plane.Stride = (int)Math.Min(_json.Integer(o, "stride", 1, 1L << 31), int.MaxValue);
            plane.Layout = _json.Choice(o, "layout", Wire.Layouts, "hwc");
            plane.Origin = _json.Choice(o, "origin", Wire.Origins, "tl");
            bool color = plane.Name == "color", depth = plane.Name == "depth";
            bool motion = plane.Name == "motion";
            plane.ColorSpace = color ? _json.Choice(o, "cs", Wire.ColorSpaces, "srgb") : "srgb";
            plane.Alpha = color ? _json.Choice(o, "alpha", Wire.AlphaKinds, "opaque") : "opaque";
            plane.Background = color && _json.Has(o, "bg") ? _json.Numbers(o, "bg", 3) : null;
            plane.Kind = depth ? _json.Choice(o, "kind", Wire.DepthKinds, "expected") : "expected";
            plane.Near = depth && _json.Has(o, "near") ? _json.Number(o, "near", 0, 1e30)
                : (double?)null;
            plane.Far = depth && _json.Has(o, "far") ? _json.Number(o, "far", 0, 1e30)
                : (double?)null;
            plane.Direction = motion ? _json.Choice(o, "dir", Wire.Directions, "cur_to_prev")
                : "cur_to_prev";
            plane.Unit = motion ? _json.Choice(o, "unit", Wire.Units, "px") : "px";
            return plane;
        }
    }

    /// <summary>Writes messages; the bytes from Start to Length are framing and header.</summary>
    internal sealed class Writer
    {
        const int Room = 4 * (2 + 1 + Wire.MostPlanes);

        public byte[] Bytes = new byte[1024];

        public int Start { get; private set; }

        public int Length { get; private set; }

        public byte[] ToArray()
        {
            var copy = new byte[Length - Start];
            Buffer.BlockCopy(Bytes, Start, copy, 0, copy.Length);
            return copy;
        }

        public void Write(Hello hello)
        {
            Begin("hello");
            Key("v");
            Add('[');
            foreach (long version in hello.Versions) Item(version);
            Add(']');
            Pair("client", hello.Client);
            Pair("stream", hello.Stream);
            Pair("mode", hello.Mode);
            if (hello.MaxAgeMs != null) Pair("max_age_ms", hello.MaxAgeMs.Value);
            Pair("temporal", hello.Temporal);
            if (hello.WantFormat != null || hello.WantLayout != null || hello.WantOrigin != null)
            {
                Key("want");
                Add('{');
                if (hello.WantFormat != null) Pair("fmt", hello.WantFormat);
                if (hello.WantLayout != null) Pair("layout", hello.WantLayout);
                if (hello.WantOrigin != null) Pair("origin", hello.WantOrigin);
                Add('}');
            }
            if (!string.IsNullOrEmpty(hello.Token)) Pair("token", hello.Token);
            if (!string.IsNullOrEmpty(hello.References)) Pair("references", hello.References);
            End(null);
        }

        public void Write(Upload upload)
        {
            Begin("references");
            Pair("session", upload.Session);
            if (upload.Kind != "pictures") Pair("kind", upload.Kind);
            if (upload.Count == null || upload.Pictures.Count > 0)
            {
                Key("pictures");
                Add('[');
                foreach (ReferencePicture picture in upload.Pictures)
                {
                    Separate();
                    Add('{');
                    Pair("fmt", picture.Format);
                    Pair("bytes", picture.Bytes);
                    if (picture.Width > 0) Pair("w", picture.Width);
                    if (picture.Height > 0) Pair("h", picture.Height);
                    Add('}');
                }
                Add(']');
            }
            if (upload.Count != null) Pair("count", upload.Count.Value);
            End(upload.Planes);
        }

        public void Write(Frame frame)
        {
            Begin("frame");
            Pair("session", frame.Session);
            Pair("id", frame.Id);
            Pair("pts", frame.Pts);
            Pair("w", frame.Width);
            Pair("h", frame.Height);
            if (frame.Cut) Pair("cut", true);
            if (frame.MaxAgeMs != null) Pair("max_age_ms", frame.MaxAgeMs.Value);
            if (frame.Camera != null)
            {
                Key("cam");
                Add('{');
                Pair("K", frame.Camera.K);
                if (frame.Camera.View != null) Pair("view", frame.Camera.View);
                Add('}');
            }
            Planes(frame.Planes);
            End(frame.Planes);
        }

        public void WriteNumbered(string type, long number)
        {
            Begin(type);
            Pair("n", number);
            End(null);
        }

        public void WriteStats()
        {
            Begin("stats");
            End(null);
        }

        public void WriteBye(string session)
        {
            Begin("bye");
            if (session.Length > 0) Pair("session", session);
            End(null);
        }

        public void Begin(string type)
        {
            Length = Room;
            Add('{');
            Pair("t", type);
        }

        /// <param name="planes">The planes that follow, or null.</param>
        public void End(List<Plane> planes)
        {
            Add('}');
            int count = planes == null ? 0 : planes.Count;
            Start = Room - 4 * (3 + count);
            Bytes[Start] = (byte)'S';
            Bytes[Start + 1] = (byte)'M';
            Bytes[Start + 2] = (byte)'P';
            Bytes[Start + 3] = (byte)'1';
            PutUnsigned(Start + 4, count + 1);
            PutUnsigned(Start + 8, Length - Room);
            for (int i = 0; i < count; i++) PutUnsigned(Start + 12 + 4 * i, planes[i].Length);
        }

        public void Planes(List<Plane> planes)
        {
            Key("planes");
            Add('[');
            foreach (Plane plane in planes)
            {
                Separate();
                Add('{');
                Pair("n", plane.Name);
                Pair("fmt", plane.Format);
                Pair("stride", plane.Stride);
                if (plane.Layout != "hwc") Pair("layout", plane.Layout);
                if (plane.Origin != "tl") Pair("origin", plane.Origin);
                if (plane.ColorSpace != "srgb") Pair("cs", plane.ColorSpace);
                if (plane.Alpha != "opaque") Pair("alpha", plane.Alpha);
                if (plane.Background != null) Pair("bg", plane.Background);
                if (plane.Kind != "expected") Pair("kind", plane.Kind);
                if (plane.Near != null) Pair("near", plane.Near.Value);
                if (plane.Far != null) Pair("far", plane.Far.Value);
                if (plane.Direction != "cur_to_prev") Pair("dir", plane.Direction);
                if (plane.Unit != "px") Pair("unit", plane.Unit);
                Add('}');
            }
            Add(']');
        }

        public void Pair(string key, string value)
        {
            Key(key);
            Quote(value ?? "");
        }

        public void Pair(string key, long value)
        {
            Key(key);
            Put(value);
        }

        public void Pair(string key, double value)
        {
            Key(key);
            Put(value);
        }

        public void Pair(string key, bool value)
        {
            Key(key);
            Raw(value ? "true" : "false");
        }

        public void Pair(string key, double[] values)
        {
            Key(key);
            Add('[');
            foreach (double value in values)
            {
                Separate();
                Put(value);
            }
            Add(']');
        }

        public void Item(long value)
        {
            Separate();
            Put(value);
        }

        public void Item(string value)
        {
            Separate();
            Quote(value);
        }

        public void Key(string key)
        {
            Separate();
            Quote(key);
            Add(':');
        }

        public void Add(char ascii)
        {
            if (Length == Bytes.Length) Array.Resize(ref Bytes, 2 * Length);
            Bytes[Length++] = (byte)ascii;
        }

        public void Raw(string ascii)
        {
            foreach (char c in ascii) Add(c);
        }

        void Separate()
        {
            byte last = Bytes[Length - 1];
            if (last != '{' && last != '[') Add(',');
        }

        void Quote(string text)
        {
            Add('"');
            foreach (char c in text)
            {
                if (c == '"' || c == '\\') Add('\\');
                if (c >= ' ' && c <= '~')
                    Add(c);
                else
                    Raw("\\u" + ((int)c).ToString("x4", CultureInfo.InvariantCulture));
            }
            Add('"');
        }

        void Put(long value)
        {
            if (value == long.MinValue)
            {
                Raw("-9223372036854775808"); // long has no positive counterpart
                return;
            }
            if (value < 0) Add('-');
            value = Math.Abs(value);
            long unit = 1;
            while (value / unit >= 10) unit *= 10;
            for (; unit > 0; unit /= 10) Add((char)('0' + value / unit % 10));
        }

        void Put(double value)
        {
            if (Math.Abs(value) < 1e15 && value == Math.Floor(value))
                Put((long)value);
            else
                Raw(value.ToString("R", CultureInfo.InvariantCulture));
        }

        void PutUnsigned(int at, int value)
        {
            for (int i = 0; i < 4; i++) Bytes[at + i] = (byte)(value >> 8 * i);
        }
    }

    /// <summary>A strict parser of JSON objects. The nodes lie in one array that is used again: a
    /// key and its value follow each other, and After(i) is the next sibling.</summary>
    internal sealed class Json
    {
        const int MostDepth = 64;

        enum Kind : byte
        {
            Null,
            True,
            False,
            Integer,
            Real,
            Text,
            List,
            Object,
        }

        struct Node
        {
            public Kind Kind;
            public int Start; // in the text; for strings, after the quote
            public int End;
            public int After;
        }

        static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        readonly StringBuilder _builder = new StringBuilder();
        Node[] _nodes = new Node[128];
        int _count;
        byte[] _text;
        int _length;
        int _at;

        /// <summary>Parse a text; node 0 is the object, valid until the text changes.</summary>
        /// <exception cref="ProtocolException">The text is not a JSON object.</exception>
        public void Parse(byte[] text, int length)
        {
            _text = text;
            _length = length;
            _at = 0;
            _count = 0;
            try
            {
                Utf8.GetCharCount(text, 0, length);
            }
            catch (DecoderFallbackException)
            {
                throw Wire.Bad("the header is not UTF-8");
            }
            ReadValue(0);
            SkipBlanks();
            if (_at != length) throw Broken();
            if (_nodes[0].Kind != Kind.Object) throw Wire.Bad("the header must be a JSON object");
        }

        public int After(int node) => _nodes[node].After;

        /// <summary>Null is the same as absent.</summary>
        public bool Has(int o, string key) => Find(o, key) >= 0;

        /// <param name="known">Returned if it is the same text, instead of a new one.</param>
        public string Text(int o, string key, string missing = null, string known = null)
        {
            int node = Find(o, key);
            if (node < 0 && missing != null) return missing;
            if (node < 0 || _nodes[node].Kind != Kind.Text) throw Refused(key, "a text");
            if (known != null && Equals(node, known)) return known;
            string text = Decode(node);
            if (!IsPrintable(text, Wire.LongestText))
                throw Refused(key, "at most " + Wire.LongestText + " printable characters");
            return text;
        }

        public string Choice(int o, string key, string[] allowed, string missing = null)
        {
            int node = Find(o, key);
            if (node < 0 && missing != null) return missing;
            if (node >= 0 && _nodes[node].Kind == Kind.Text)
                foreach (string each in allowed)
                    if (Equals(node, each)) return each;
            throw Refused(key, "one of " + string.Join(", ", allowed));
        }

        public long Integer(int o, string key, long low, long high, long? missing = null)
        {
            int node = Find(o, key);
            if (node < 0 && missing != null) return missing.Value;
            long value;
            if (node >= 0 && TryInteger(node, out value) && value >= low && value <= high)
                return value;
            throw Refused(key, "a whole number from " + low + " to " + high);
        }

        public double Number(int o, string key, double low, double high, double? missing = null)
        {
            int node = Find(o, key);
            if (node < 0 && missing != null) return missing.Value;
            if (node >= 0 && IsNumber(node))
            {
                double value = Double(node);
                if (value >= low && value <= high) return value;
            }
            throw Refused(key, "a number from " + low + " to " + high);
        }

        public bool Flag(int o, string key, bool missing)
        {
            int node = Find(o, key);
            if (node < 0) return missing;
            Kind kind = _nodes[node].Kind;
            if (kind != Kind.True && kind != Kind.False) throw Refused(key, "true or false");
            return kind == Kind.True;
        }

        public int Object(int o, string key)
        {
            int node = Find(o, key);
            if (node < 0 || _nodes[node].Kind != Kind.Object) throw Refused(key, "an object");
            return node;
        }

        /// <returns>A list whose items are objects; -1 if absent.</returns>
        public int Objects(int o, string key, int most)
        {
            int list = Find(o, key);
            if (list >= 0) CheckList(list, key, most, Kind.Object, Kind.Object);
            return list;
        }

        public long[] Integers(int o, string key, long low, long high)
        {
            int list = Find(o, key);
            var values = new long[CheckList(list, key, 64, Kind.Integer, Kind.Integer)];
            for (int i = 0, node = list + 1; i < values.Length; i++, node++)
                if (!TryInteger(node, out values[i]) || values[i] < low || values[i] > high)
                    throw Refused(key, "whole numbers from " + low + " to " + high);
            return values;
        }

        public double[] Numbers(int o, string key, int count)
        {
            int list = Find(o, key);
            if (CheckList(list, key, count, Kind.Integer, Kind.Real) != count)
                throw Refused(key, "a list of " + count + " finite numbers");
            var values = new double[count];
            for (int i = 0; i < count; i++)
            {
                values[i] = Double(list + 1 + i);
                if (double.IsInfinity(values[i])) throw Refused(key, "finite numbers");
            }
            return values;
        }

        public string[] Texts(int o, string key)
        {
            int list = Find(o, key);
            if (list < 0) return new string[0];
            var texts = new string[CheckList(list, key, 64, Kind.Text, Kind.Text)];
            for (int i = 0; i < texts.Length; i++)
            {
                texts[i] = Decode(list + 1 + i);
                if (CodePoints(texts[i]) > Wire.LongestText) throw Refused(key, "short texts");
            }
            return texts;
        }

        /// <returns>The object's text; null if absent.</returns>
        public string Source(int o, string key)
        {
            if (!Has(o, key)) return null;
            int node = Object(o, key);
            for (int i = node; i < _nodes[node].After; i++)
                if (_nodes[i].Kind == Kind.Real && double.IsInfinity(Double(i)))
                    throw Refused(key, "an object of finite numbers");
            return Utf8.GetString(_text, _nodes[node].Start, _nodes[node].End - _nodes[node].Start);
        }

        int Find(int o, string key)
        {
            int found = -1; // the last one counts
            for (int i = o + 1; i < _nodes[o].After; i = _nodes[i + 1].After)
                if (Equals(i, key)) found = i + 1;
            return found >= 0 && _nodes[found].Kind == Kind.Null ? -1 : found;
        }

        int CheckList(int list, string key, int most, Kind low, Kind high)
        {
            if (list < 0 || _nodes[list].Kind != Kind.List) throw Refused(key, "a list");
            int count = 0;
            for (int i = list + 1; i < _nodes[list].After; i = _nodes[i].After, count++)
                if (_nodes[i].Kind < low || _nodes[i].Kind > high || count == most)
                    throw Refused(key, "a list of at most " + most + " of the right kind");
            return count;
        }

        bool IsNumber(int node) =>
            _nodes[node].Kind == Kind.Integer || _nodes[node].Kind == Kind.Real;

        bool TryInteger(int node, out long value)
        {
            value = 0;
            if (_nodes[node].Kind != Kind.Integer) return false;
            int at = _nodes[node].Start;
            bool negative = _text[at] == '-';
            if (negative) at++;
            for (; at < _nodes[node].End; at++) // downwards: long.MinValue has the larger size
            {
                int digit = _text[at] - '0';
                if (value < (long.MinValue + digit) / 10) return false;
                value = value * 10 - digit;
            }
            if (negative) return true;
            if (value == long.MinValue) return false;
            value = -value;
            return true;
        }

        /// <summary>Read a number. Exact digits and an exact power of ten give the nearest number
        /// without a string (Clinger 1990); the library reads all others.</summary>
        double Double(int node)
        {
            long digits = 0;
            int point = -1, end = _nodes[node].End, start = _nodes[node].Start;
            bool negative = _text[start] == '-';
            for (int at = start + (negative ? 1 : 0); at < end; at++)
            {
                if (_text[at] == '.')
                {
                    point = at;
                    continue;
                }
                if (_text[at] < '0' || _text[at] > '9' || digits > 1L << 49)
                    return ParseDouble(start, end);
                digits = 10 * digits + _text[at] - '0';
            }
            double power = 1;
            int places = point < 0 ? 0 : end - point - 1;
            if (places > 22) return ParseDouble(start, end);
            for (int i = 0; i < places; i++) power *= 10;
            return (negative ? -digits : digits) / power;
        }

        double ParseDouble(int start, int end)
        {
            string text = Utf8.GetString(_text, start, end - start);
            try
            {
                return double.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture);
            }
            catch (OverflowException) // older runtimes throw; newer ones return infinity
            {
                return text[0] == '-' ? double.NegativeInfinity : double.PositiveInfinity;
            }
        }

        /// <summary>Works like Python's str.isprintable: no control, format, private or unassigned
        /// character, and no space but U+0020.</summary>
        static bool IsPrintable(string text, int most)
        {
            if (CodePoints(text) > most) return false;
            for (int i = 0; i < text.Length; i++)
            {
                if (text[i] == ' ') continue;
                switch (CharUnicodeInfo.GetUnicodeCategory(text, i))
                {
                    case UnicodeCategory.Control:
                    case UnicodeCategory.Format:
                    case UnicodeCategory.Surrogate:
                    case UnicodeCategory.PrivateUse:
                    case UnicodeCategory.OtherNotAssigned:
                    case UnicodeCategory.LineSeparator:
                    case UnicodeCategory.ParagraphSeparator:
                    case UnicodeCategory.SpaceSeparator:
                        return false;
                }
                if (char.IsHighSurrogate(text[i])) i++;
            }
            return true;
        }

        static int CodePoints(string text)
        {
            int count = text.Length;
            for (int i = 1; i < text.Length; i++)
                if (char.IsSurrogatePair(text[i - 1], text[i])) count--;
            return count;
        }

        static ProtocolException Refused(string key, string allowed) =>
            Wire.Bad(key + " must be " + allowed);

        ProtocolException Broken() => Wire.Bad("the header is no JSON at byte " + _at);

        // Strings

        bool Equals(int node, string text)
        {
            int start = _nodes[node].Start, length = _nodes[node].End - start;
            if (length == text.Length)
            {
                int same = 0;
                while (same < length && _text[start + same] == text[same]) same++;
                if (same == length) return true;
            }
            for (int i = 0; i < length; i++) // else equal only by escapes, longer letters
                if (_text[start + i] == '\\' || _text[start + i] > '~') return Decode(node) == text;
            return false;
        }

        string Decode(int node)
        {
            int start = _nodes[node].Start, end = _nodes[node].End;
            _builder.Length = 0;
            for (int at = start; at < end;)
            {
                int next = Array.IndexOf(_text, (byte)'\\', at, end - at);
                if (next < 0) next = end;
                _builder.Append(Utf8.GetString(_text, at, next - at));
                at = next + 2;
                if (next >= end) break;
                char escape = (char)_text[next + 1];
                if (escape == 'u')
                {
                    _builder.Append((char)Hex(next + 2));
                    at += 4;
                }
                else
                {
                    int index = "bfnrt".IndexOf(escape);
                    _builder.Append(index < 0 ? escape : "\b\f\n\r\t"[index]);
                }
            }
            return _builder.ToString();
        }

        /// <returns>-1 if there are not four digits.</returns>
        int Hex(int at)
        {
            int value = 0;
            for (int i = at; i < at + 4; i++)
            {
                int c = i < _length ? _text[i] | 0x20 : 0; // letters become lower case
                int digit = c >= '0' && c <= '9' ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
                if (digit < 0 || _text[i] < '0') return -1;
                value = 16 * value + digit;
            }
            return value;
        }

        // Grammar (RFC 8259)

        void ReadValue(int depth)
        {
            SkipBlanks();
            if (depth > MostDepth)
                throw Wire.Bad("the header nests more than " + MostDepth + " deep");
            int c = Peek(), node = _count;
            if (_count == _nodes.Length) Array.Resize(ref _nodes, 2 * _count);
            _count++;
            _nodes[node].Start = _at;
            Kind kind;
            if (c == '{' || c == '[')
            {
                kind = c == '{' ? Kind.Object : Kind.List;
                ReadItems(c == '{', depth + 1);
            }
            else if (c == '"')
            {
                kind = Kind.Text;
                _nodes[node].Start++;
                ReadString();
            }
            else if (c == 't' || c == 'f' || c == 'n')
            {
                kind = c == 't' ? Kind.True : c == 'f' ? Kind.False : Kind.Null;
                foreach (char each in c == 't' ? "true" : c == 'f' ? "false" : "null") Expect(each);
            }
            else
            {
                kind = ReadNumber();
            }
            _nodes[node].Kind = kind;
            _nodes[node].End = kind == Kind.Text ? _at - 1 : _at;
            _nodes[node].After = _count;
        }

        void ReadItems(bool keyed, int depth)
        {
            char end = keyed ? '}' : ']';
            _at++;
            SkipBlanks();
            if (Peek() == end)
            {
                _at++;
                return;
            }
            while (true)
            {
                if (keyed)
                {
                    SkipBlanks();
                    if (Peek() != '"') throw Broken();
                    ReadValue(depth);
                    SkipBlanks();
                    Expect(':');
                }
                ReadValue(depth);
                SkipBlanks();
                if (Peek() != ',') break;
                _at++;
            }
            Expect(end);
        }

        void ReadString()
        {
            for (_at++; Peek() != '"'; _at++)
            {
                if (Peek() < ' ') throw Broken(); // also at the end of the text
                if (Peek() != '\\') continue;
                _at++;
                if (Peek() == 'u' && Hex(_at + 1) >= 0)
                    _at += 4;
                else if (Peek() < 0 || "\"\\/bfnrt".IndexOf((char)Peek()) < 0)
                    throw Broken();
            }
            _at++;
        }

        Kind ReadNumber()
        {
            var kind = Kind.Integer;
            if (Peek() == '-') _at++;
            if (Peek() == '0')
                _at++;
            else
                ReadDigits();
            if (Peek() == '.')
            {
                kind = Kind.Real;
                _at++;
                ReadDigits();
            }
            if (Peek() != 'e' && Peek() != 'E') return kind;
            _at++;
            if (Peek() == '+' || Peek() == '-') _at++;
            ReadDigits();
            return Kind.Real;
        }

        void ReadDigits()
        {
            int start = _at;
            while (Peek() >= '0' && Peek() <= '9') _at++;
            if (_at == start) throw Broken();
        }

        void SkipBlanks()
        {
            while (Peek() == ' ' || Peek() == '\t' || Peek() == '\n' || Peek() == '\r') _at++;
        }

        void Expect(char c)
        {
            if (Peek() != c) throw Broken();
            _at++;
        }

        int Peek() => _at < _length ? _text[_at] : -1;
    }
}
